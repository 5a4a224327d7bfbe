"""Measure how well systems perform on annotated people, and compare them."""
