"""Fit a calibration, a line and a threshold per label, on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from emotion_perception.core.logits import logit, probability
from emotion_perception.core.schema import Value
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import metrics
from emotion_perception.recognizers.calibrated import Calibration

_PRIOR = 1.0  # precision of the belief that scores mean what they say
_STEPS = 100
_SMALL = 1e-9


def fit(
    truth: npt.NDArray[np.bool_],
    scores: FloatArray,
    labels: Sequence[str],
    *,
    system: str,
    prompting: Mapping[str, Value],
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
    metrics.check_shapes(truth, scores)
    for label, column in zip(labels, truth.T, strict=True):
        if column.all() or not column.any():
            word = "everybody" if column.any() else "nobody"
            raise ValueError(f"{word} has {label!r} in this data: calibrate on a larger split")
    lines = [_line(logit(s), t) for s, t in zip(scores.T, truth.T, strict=True)]
    slope, offset = np.array(lines).T
    calibrated = probability(slope * logit(scores) + offset)
    found = (
        metrics.break_even_thresholds(truth, calibrated)
        if beta is None
        else metrics.f_beta_thresholds(truth, calibrated, beta)
    )
    if beta is None:
        # Scores that tell nobody apart choose everybody or nobody: what is nearer to the truth.
        found = np.where(np.ptp(calibrated, axis=0) == 0, 0.5, found)
    thresholds = np.clip(found, 1e-6, 1 - 1e-6)
    return Calibration(tuple(labels), slope, offset, thresholds, system, prompting, data)


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
