"""The errors of the package, in one tree.

    EmotionPerceptionError
    ├── ModelError              a model, a library or a calibration cannot be used
    ├── RecognizerError         this round has no assessment, the next one may
    ├── IncompleteRunError      an evaluation lacks assessments; a repeated command resumes it
    └── FrameError              an image message does not hold an image (also a ValueError)
        └── UnknownEncodingError

A value that is not allowed is a plain ValueError, a file that cannot be written an OSError.
"""

from __future__ import annotations

from emotion_perception.core.text import printable


class EmotionPerceptionError(Exception):
    """Base of all errors that the package defines."""


class ModelError(EmotionPerceptionError):
    """A model cannot be used; the message names it and the remedy."""


class RecognizerError(EmotionPerceptionError):
    """This round has no assessment; the next one may have."""


class IncompleteRunError(EmotionPerceptionError):
    """Some people have no answer yet; the same command resumes from the stored answers."""


class FrameError(EmotionPerceptionError, ValueError):
    """An image message does not hold an image; the message says why."""


class UnknownEncodingError(FrameError):
    """The image has an encoding that this package does not decode."""


def describe(error: BaseException) -> str:
    """Return the type and text of an error, also of one whose text cannot be made."""
    try:
        return printable(f"{type(error).__name__}: {error}")
    except Exception as second:
        return f"{type(error).__name__}, whose text raises {type(second).__name__}"
