"""How the people in front of a robot seem to feel, from the whole scene."""

__version__ = "0.1.0"
