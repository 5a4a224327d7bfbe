"""From scores to probabilities, and which of them are enough: fitted on validation data.

A model's scores say which label is likelier, seldom how likely: two models that rank alike can
differ wildly in what they call 0.5. Each label gets a straight line through its log-odds (Platt,
1999) and a threshold, kept as a YAML file beside the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
"""Its name beside a model."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What a set of scores means."""

    labels: tuple[str, ...]
    slope: FloatArray
    """(L,), of the log-odds."""
    offset: FloatArray
    """(L,), added to the log-odds."""
    thresholds: FloatArray
    """(L,) calibrated probabilities in 0..1, above which a label counts as present."""
    system: str
    """Whose scores they are: the recognizer's name."""
    prompting: Mapping[str, Value]
    """How it was asked: the settings that its scores depend on, see `prompting_settings`."""
    data: str
    """Fingerprint of what it was fitted on."""

    @property
    def name(self) -> str:
        """What is published as the calibration."""
        return f"platt:{self.data[:8]}"

    def apply(self, scores: FloatArray) -> FloatArray:
        """(..., L) probabilities from (..., L) scores."""
        return probability(self.slope * logit(scores) + self.offset)

    def write(self, path: Path | str) -> None:
        """As a YAML file, a line for each label.

        Raises:
            OSError: it cannot be written; what was there before stays.
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
        """
        Raises:
            ValueError: the file is not there, or is no such file.
        """
        try:
            content = yaml.safe_load(Path(path).read_text())
            rows: dict[str, dict[str, float]] = content["labels"]
            slope, offset, thresholds = (
                np.array([float(row[name]) for row in rows.values()])
                for name in ("slope", "offset", "threshold")
            )
            system, asked, data = (content[name] for name in ("system", "asked", "data"))
            prompting = current_names(dict(asked))
            found = cls(tuple(rows), slope, offset, thresholds, str(system), prompting, str(data))
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path} is no calibration ({reason}): let `emotion-perception calibrate` make one"
            ) from error
        if not (
            np.all(np.isfinite([slope, offset])) and np.all((thresholds > 0) & (thresholds < 1))
        ):
            raise ValueError(f"{path} has slopes that are not finite, or thresholds outside (0, 1)")
        return found


_ASKED = (
    "person_view", "definitions", "scoring", "answer_format", "subtract_prior", "scene_size",
    "crop_size",
)  # fmt: skip


def prompting_settings(settings: RecognizerSettings) -> dict[str, Value]:
    """Return the settings that a model's scores depend on, besides the model."""
    return {name: getattr(settings, name) for name in _ASKED if hasattr(settings, name)}


class Calibrated:
    """A recognizer whose scores went through a calibration."""

    def __init__(self, recognizer: Recognizer, calibration: Calibration) -> None:
        """
        Raises:
            ValueError: it was fitted on the scores of another system, or of other labels.
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
        self._recognizer.warm_up()

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """As the recognizer inside, with calibrated scores."""
        return [self._calibrated(answer) for answer in self._recognizer.assess(scene, people)]

    def close(self) -> None:
        self._recognizer.close()

    def _calibrated(self, answer: Assessment) -> Assessment:
        if answer.scores is None:
            return answer
        scores = self._calibration.apply(answer.scores)
        return Assessment(
            answer.person_id, answer.stamp_ns, scores, answer.vad, answer.rationale, answer.reason
        )
