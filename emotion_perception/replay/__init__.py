"""Recorded bags: what a node would have said about them, and when, measured and to be looked at."""
