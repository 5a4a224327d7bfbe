"""Describe a person in words, then let a language model read the description."""
