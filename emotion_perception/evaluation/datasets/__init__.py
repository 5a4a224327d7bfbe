"""Annotated data sets as images with people."""
