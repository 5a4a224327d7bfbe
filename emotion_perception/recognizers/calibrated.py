"""Apply a calibration: a line through the log-odds and a threshold per label.

The scores of a model rank labels, but two models with the same ranking can differ in what they call
0.5. A calibration maps scores to probabilities (Platt, 1999). It is a YAML file beside the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from emotion_perception.core import documents
from emotion_perception.core.interfaces import Explainer, Recognizer
from emotion_perception.core.logits import logit, probability
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.core.schema import Value
from emotion_perception.core.settings import current_names
from emotion_perception.core.values import Assessment, FloatArray, Scene, Track
from emotion_perception.io import atomic

_RANGES = {"slope": (0.0, 1e6), "offset": (-1e6, 1e6), "threshold": (1e-9, 1 - 1e-9)}
"""The values of a label: a line that does not invert the scores, and a probability."""

FILE_NAME = "emotion_calibration.yaml"
"""The file name of a calibration beside a model."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The map from scores to probabilities of one system, with thresholds."""

    labels: tuple[str, ...]
    slope: FloatArray
    """(L,) factor of the log-odds."""
    offset: FloatArray
    """(L,) added to the log-odds."""
    thresholds: FloatArray
    """(L,) calibrated probabilities in 0..1; a label above its threshold counts as present."""
    system: str
    """The name of the recognizer that gave the scores."""
    prompting: Mapping[str, Value]
    """The settings that the scores depend on, see `prompting_settings`."""
    data: str
    """The fingerprint of the data that it was fitted on."""

    @property
    def name(self) -> str:
        """The name that is published in messages."""
        return f"platt:{self.data[:8]}"

    def apply(self, scores: FloatArray) -> FloatArray:
        """Return calibrated probabilities (..., L) of scores (..., L)."""
        return probability(self.slope * logit(scores) + self.offset)

    def write(self, path: Path | str) -> None:
        """Write a YAML file with one line per label.

        Raises:
            OSError: the file cannot be written; the former file remains.
        """
        rows = {
            label: {
                "slope": float(self.slope[i]),
                "offset": float(self.offset[i]),
                "threshold": float(self.thresholds[i]),
            }
            for i, label in enumerate(self.labels)
        }
        content = {
            "system": self.system,
            "asked": dict(self.prompting),
            "data": self.data,
            "labels": rows,
        }
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        atomic.write_files({Path(path): text.encode()})

    @classmethod
    def read(cls, path: Path | str) -> Calibration:
        """Read a calibration file.

        Raises:
            ValueError: the file does not exist, or is not a calibration.
        """
        try:
            content = documents.read_yaml(path)
            if not isinstance(content, dict):
                raise ValueError("it is not a mapping")
            return cls._from_content(content)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot read {path} as a calibration: {error}; fit one with "
                "`emotion-perception calibrate`"
            ) from error

    @classmethod
    def _from_content(cls, content: Mapping[str, Any]) -> Calibration:
        """Check the values of a file.

        Raises:
            ValueError: a value has another type, or makes no sense.
        """
        if missing := [n for n in ("system", "asked", "data", "labels") if n not in content]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        system, asked, data, labels = (content[n] for n in ("system", "asked", "data", "labels"))
        if not (isinstance(system, str) and isinstance(data, str)):
            raise ValueError(f"system = {system!r} and data = {data!r} are not both texts")
        if not isinstance(asked, dict) or any(isinstance(x, dict | list) for x in asked.values()):
            raise ValueError(f"asked = {asked!r} is not a mapping of settings")
        if not isinstance(labels, dict) or not labels:
            raise ValueError("labels is not a mapping of each label to slope, offset and threshold")
        rows = [_line_of(label, row) for label, row in labels.items()]
        slope, offset, thresholds = np.array(rows).T
        return cls(tuple(labels), slope, offset, thresholds, system, current_names(asked), data)


def _line_of(label: str, row: Any) -> tuple[float, float, float]:
    """Return slope, offset and threshold of a label.

    Raises:
        ValueError: one is missing, is not a number, or makes no sense.
    """
    values: list[Any] = [row.get(name) for name in _RANGES] if isinstance(row, dict) else []
    for (name, (low, high)), value in zip(_RANGES.items(), values, strict=False):
        if type(value) not in (int, float):
            raise ValueError(f"{name} = {value!r} of {label!r} is not a number")
        if not low <= value <= high:
            raise ValueError(f"{name} = {value} of {label!r} is outside {low:g} to {high:g}")
    if not values:
        raise ValueError(f"{label!r} has no slope, offset and threshold")
    slope, offset, threshold = map(float, values)
    return slope, offset, threshold


_PROMPTING = (
    "person_view", "definitions", "scoring", "answer_format", "subtract_prior", "scene_size",
    "crop_size",
)  # fmt: skip


def prompting_settings(settings: RecognizerSettings) -> dict[str, Value]:
    """Return the settings that a model's scores depend on, besides the model."""
    return {name: getattr(settings, name) for name in _PROMPTING if hasattr(settings, name)}


class Calibrated:
    """A recognizer with calibrated scores."""

    def __init__(self, recognizer: Recognizer, calibration: Calibration) -> None:
        """Wrap a recognizer.

        Raises:
            ValueError: the calibration was fitted on another system or other labels.
        """
        remedy = "calibrate again, or set recognizer.calibration to none"
        if calibration.system != recognizer.name:
            raise ValueError(
                f"the calibration is for {calibration.system}, this is {recognizer.name}: {remedy}"
            )
        if calibration.labels != recognizer.labels:
            raise ValueError(
                f"the calibration of {calibration.system} is for other labels than it has: {remedy}"
            )
        self.name, self.labels = recognizer.name, recognizer.labels
        self.thresholds = calibration.thresholds
        self.calibration = "+".join(filter(None, (recognizer.calibration, calibration.name)))
        self._recognizer, self.fitted = recognizer, calibration
        if isinstance(recognizer, Explainer):
            self.explain: Any = recognizer.explain

    def warm_up(self) -> None:
        """Warm up the recognizer."""
        self._recognizer.warm_up()

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return the assessments of the recognizer with calibrated scores."""
        return [self._calibrated(a) for a in self._recognizer.assess(scene, people)]

    def close(self) -> None:
        """Close the recognizer."""
        self._recognizer.close()

    def _calibrated(self, assessment: Assessment) -> Assessment:
        if assessment.scores is None:
            return assessment
        return replace(assessment, scores=self.fitted.apply(assessment.scores))


def calibration_of(recognizer: Recognizer) -> Calibration | None:
    """Return the calibration that a recognizer applies to its scores, None if there is none."""
    return recognizer.fitted if isinstance(recognizer, Calibrated) else None
