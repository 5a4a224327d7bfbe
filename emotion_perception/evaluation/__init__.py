"""How good a system is, measured on labelled data."""
