"""Estimate how the people in front of a robot appear to feel, from the whole scene."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("emotion_perception")
except PackageNotFoundError:  # run from a folder that is not installed
    __version__ = "0+unknown"
