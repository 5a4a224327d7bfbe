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

from emotion_perception.core.interfaces import Explainer, Recognizer
from emotion_perception.core.logits import logit, probability
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.core.schema import Value
from emotion_perception.core.settings import current_names
from emotion_perception.core.values import Assessment, FloatArray, Scene, Track
from emotion_perception.io import atomic

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
            content = yaml.safe_load(Path(path).read_text())
            rows: dict[str, dict[str, float]] = content["labels"]
            slope, offset, thresholds = (
                np.array([float(row[name]) for row in rows.values()])
                for name in ("slope", "offset", "threshold")
            )
            system, prompting, data = (content[name] for name in ("system", "asked", "data"))
            prompting = current_names(dict(prompting))
            calibration = cls(
                tuple(rows), slope, offset, thresholds, str(system), prompting, str(data)
            )
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"cannot read {path} as a calibration: {reason}; fit one with "
                "`emotion-perception calibrate`"
            ) from error
        if not (
            np.all(np.isfinite([slope, offset])) and np.all((thresholds > 0) & (thresholds < 1))
        ):
            raise ValueError(
                f"cannot use {path}: slopes are not finite, or thresholds are outside (0, 1); fit "
                "it again with `emotion-perception calibrate`"
            )
        return calibration


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
        self._recognizer, self._calibration = recognizer, calibration
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
        return replace(assessment, scores=self._calibration.apply(assessment.scores))
