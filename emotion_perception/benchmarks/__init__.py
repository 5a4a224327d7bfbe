"""Measure the engine beside other ways of asking the same questions."""
