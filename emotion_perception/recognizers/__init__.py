"""What judges people: one file a system, all of them behind `perception.Recognizer`."""

from __future__ import annotations

from collections.abc import Callable

from emotion_perception.perception import Recognizer
from emotion_perception.settings import RecognizerSettings


def _vlm(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.vlm import VlmRecognizer

    return VlmRecognizer(settings)


def _face(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.face import FaceRecognizer

    return FaceRecognizer(settings)


RECOGNIZERS: dict[str, Callable[[RecognizerSettings], Recognizer]] = {"vlm": _vlm, "face": _face}
"""Name to factory; the libraries behind a system are imported when it is made."""


def make_recognizer(settings: RecognizerSettings) -> Recognizer:
    """The recognizer that the settings name, its model loaded.

    Raises:
        ModelError: the model or a library is missing or unfit; the message says what to do.
    """
    return RECOGNIZERS[settings.name](settings)
