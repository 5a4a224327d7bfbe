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
import numpy.typing as npt
import yaml

from emotion_perception import files
from emotion_perception.estimates import logit, probability
from emotion_perception.evaluation import metrics
from emotion_perception.perception import Explainer, Recognizer
from emotion_perception.settings import RecognizerSettings, Value
from emotion_perception.values import Assessment, FloatArray, Scene, Track

FILE = "emotion_calibration.yaml"
"""Its name beside a model."""

_PRIOR = 1.0  # precision of the belief that scores mean what they say
_STEPS = 100
_SMALL = 1e-9


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
    asked: Mapping[str, Value]
    """How it was asked: the settings that its scores depend on, see `how_asked`."""
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
            "asked": dict(self.asked),
            "data": self.data,
            "labels": rows,
        }
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        files.write({Path(path): text.encode()})

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
            found = cls(tuple(rows), slope, offset, thresholds, str(system), dict(asked), str(data))
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


def fit(
    truth: npt.NDArray[np.bool_],
    scores: FloatArray,
    labels: Sequence[str],
    *,
    system: str,
    asked: Mapping[str, Value],
    data: str,
    beta: float | None = None,
) -> Calibration:
    """Lines and thresholds from the truth (N, L) and the scores (N, L) of validation data.

    Args:
        beta: choose the thresholds for the best F-beta (above 1 recall counts more); None: where
            precision equals recall, the protocol of EMOTIC.

    Raises:
        ValueError: shapes do not fit, nobody is there, or a label has no positive or no negative.
    """
    metrics.check(truth, scores)
    for label, column in zip(labels, truth.T, strict=True):
        if column.all() or not column.any():
            word = "everybody" if column.any() else "nobody"
            raise ValueError(f"{word} has {label!r} in this data: calibrate on a larger split")
    lines = [_line(logit(s), t) for s, t in zip(scores.T, truth.T, strict=True)]
    slope, offset = np.array(lines).T
    calibrated = probability(slope * logit(scores) + offset)
    found = (
        metrics.thresholds(truth, calibrated)
        if beta is None
        else metrics.f_thresholds(truth, calibrated, beta)
    )
    if beta is None:
        # Scores that tell nobody apart choose everybody or nobody: what is nearer to the truth.
        found = np.where(np.ptp(calibrated, axis=0) == 0, 0.5, found)
    thresholds = np.clip(found, 1e-6, 1 - 1e-6)
    return Calibration(tuple(labels), slope, offset, thresholds, system, asked, data)


def _line(logits: FloatArray, truth: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the likeliest line (Platt, 1999), by Newton's method.

    A prior holds the line at "as it is" where there is little data, or where a label is told apart
    without an error, so that no slope is the likeliest. Platt moves the targets instead, which
    makes scores that are right already less sure: on the drawn world five times the calibration
    error. Steps that go too far are halved (Lin et al., 2007), without which they swing to and fro
    where scores are far too sure.
    """
    target = truth.astype(np.float64)
    columns = np.column_stack([logits.astype(np.float64), np.ones(len(logits))])
    prior, as_it_is = np.eye(2) * _PRIOR, np.array([1.0, 0.0])

    def cost(line: FloatArray) -> float:
        z, away = columns @ line, line - as_it_is
        return float((np.logaddexp(0, z) - target * z).sum() + away @ prior @ away / 2)

    line = as_it_is
    for _ in range(_STEPS):
        found = probability(columns @ line)
        slope = columns.T @ (found - target) + prior @ (line - as_it_is)
        curvature = (columns * (found * (1 - found))[:, None]).T @ columns + prior
        step = np.linalg.solve(curvature, slope)
        now = cost(line)
        while cost(line - step) > now and np.abs(step).max() > _SMALL:
            step = step / 2
        line = line - step
        if np.abs(step).max() < _SMALL:
            break
    # A label whose scores say the opposite of the truth is told by its frequency, not turned round.
    if line[0] < 0:
        return 0.0, float(logit(np.array(target.mean())))
    return float(line[0]), float(line[1])


_ASKED = (
    "person_view", "definitions", "scoring", "leaf", "calibrate", "scene_size", "crop_size",
)  # fmt: skip


def how_asked(settings: RecognizerSettings) -> dict[str, Value]:
    """The settings that a model's scores depend on, beside the model."""
    return {name: getattr(settings, name) for name in _ASKED}


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
