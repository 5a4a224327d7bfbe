"""What judges people: one file a system, all of them behind `perception.Recognizer`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from emotion_perception.core.errors import ModelError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.recognizers.calibrated import (
    FILE_NAME,
    Calibrated,
    Calibration,
    prompting_settings,
)


def _vlm(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer

    return VlmRecognizer(settings)


def _face(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.face import FaceRecognizer

    return FaceRecognizer(settings)


def _clip(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.clip import ClipRecognizer

    return ClipRecognizer(settings)


def _narracap(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.text.llm import LlmRecognizer
    from emotion_perception.recognizers.text.narracap import NarraCap

    return LlmRecognizer(settings, NarraCap(settings))


def _caption(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.text.caption import Captioner
    from emotion_perception.recognizers.text.llm import LlmRecognizer

    return LlmRecognizer(settings, Captioner(settings))


def _llm(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.text.llm import CaptionFile, LlmRecognizer

    return LlmRecognizer(settings, CaptionFile(settings))


def _remote(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.remote import RemoteRecognizer

    return RemoteRecognizer(settings)


def _cnn(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.cnn import CnnRecognizer

    return CnnRecognizer(settings)


def _encoder(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.encoders import EncoderRecognizer

    return EncoderRecognizer(settings)


def _chance(settings: RecognizerSettings) -> Recognizer:
    from emotion_perception.recognizers.chance import ChanceRecognizer

    return ChanceRecognizer(settings)


_CHANCE = ("majority", "rand6", "rand6-weighted")

RECOGNIZERS: dict[str, Callable[[RecognizerSettings], Recognizer]] = {
    "vlm": _vlm,
    "face": _face,
    "clip": _clip,
    "narracap": _narracap,
    "caption": _caption,
    "llm": _llm,
    "remote": _remote,
    "emotic-cnn": _cnn,
    "two-stream": _encoder,
    "single-stream": _encoder,
    "majority": _chance,
    "rand6": _chance,
    "rand6-weighted": _chance,
}
"""Name to factory; the libraries behind a system are imported when it is made."""


def make_recognizer(settings: RecognizerSettings) -> Recognizer:
    """The recognizer that the settings name, its model loaded and its scores calibrated.

    Raises:
        ModelError: the model, a library or the calibration is missing or unfit; the message says
            what to do.
    """
    recognizer = RECOGNIZERS[settings.name](settings)
    file = calibration_file(settings)
    if file is None or (settings.calibration == "beside" and not file.is_file()):
        return recognizer
    try:
        calibration = Calibration.read(file)
        asked = prompting_settings(settings)
        wrong = {k: v for k, v in calibration.prompting.items() if asked.get(k) != v}
        if wrong:
            here = ", ".join(f"{name} = {asked.get(name)}" for name in wrong)
            there = " ".join(
                f"-p recognizer.{name}:={value if isinstance(value, str) else json.dumps(value)}"
                for name, value in wrong.items()
            )
            raise ValueError(
                f"{file} is for another way of asking than {here}: ask as it was fitted ({there}), "
                "calibrate again, or set recognizer.calibration to none"
            )
        return Calibrated(recognizer, calibration)
    except ValueError as error:
        recognizer.close()
        raise ModelError(str(error)) from error


def calibration_file(settings: RecognizerSettings) -> Path | None:
    """Where the calibration is, or would be: beside the adapter or the model; None: nowhere."""
    if settings.calibration == "none" or settings.name in ("face", *_CHANCE):
        return None
    if settings.calibration != "beside":
        return Path(settings.calibration).expanduser()
    reads = settings.name in ("llm", "narracap", "caption")
    home = settings.adapter or (settings.text_model if reads else settings.model)
    folder = Path(home).expanduser()
    if not folder.is_dir():
        if settings.name not in ("vlm", "llm", "narracap", "caption", "clip"):
            return None
        from emotion_perception.recognizers.vlm.loading import find_folder

        folder = find_folder(home)
    return folder / FILE_NAME
