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

_PRIOR = 1.0  # precision of the prior on the identity line
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
    """Fit a line and a threshold per label on validation data.

    Args:
        truth: (N, L) ground truth.
        scores: (N, L) scores.
        labels: The labels, in the order of the columns.
        system: The name of the recognizer that computed the scores.
        prompting: The settings that the scores depend on.
        data: The fingerprint of the data.
        beta: Choose thresholds for the best F-beta (above 1 recall counts more); None: choose
            thresholds at which precision equals recall, the protocol of EMOTIC.

    Raises:
        ValueError: Shapes differ, there are no people, or a label has no positive or no negative.
    """
    metrics.check_shapes(truth, scores)
    for label, column in zip(labels, truth.T, strict=True):
        if column.all() or not column.any():
            share = "each person has" if column.any() else "no person has"
            raise ValueError(
                f"cannot calibrate {label!r}: {share} it in this data; calibrate on a larger split"
            )
    lines = [_line(logit(s), t) for s, t in zip(scores.T, truth.T, strict=True)]
    slope, offset = np.array(lines).T
    calibrated = probability(slope * logit(scores) + offset)
    chosen = (
        metrics.break_even_thresholds(truth, calibrated)
        if beta is None
        else metrics.f_beta_thresholds(truth, calibrated, beta)
    )
    if beta is None:
        # Constant scores select all people or none, whichever is nearer to the ground truth.
        chosen = np.where(np.ptp(calibrated, axis=0) == 0, 0.5, chosen)
    thresholds = np.clip(chosen, 1e-6, 1 - 1e-6)
    return Calibration(tuple(labels), slope, offset, thresholds, system, prompting, data)


def _line(logits: FloatArray, truth: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and offset of the line of maximum posterior (Platt, 1999) by Newton's method.

    A prior on the identity line keeps the fit finite where there is little data, or where scores
    separate a label without error. Platt moves the targets instead; this makes correct scores less
    certain, and on the toy world the calibration error is five times as large. Steps that increase
    the cost are halved (Lin et al., 2007); otherwise they oscillate if scores are overconfident.
    """
    target = truth.astype(np.float64)
    columns = np.column_stack([logits.astype(np.float64), np.ones(len(logits))])
    prior, identity = np.eye(2) * _PRIOR, np.array([1.0, 0.0])

    def cost(line: FloatArray) -> float:
        z, difference = columns @ line, line - identity
        loss = (np.logaddexp(0, z) - target * z).sum()
        return float(loss + difference @ prior @ difference / 2)

    line = identity
    for _ in range(_STEPS):
        fitted = probability(columns @ line)
        gradient = columns.T @ (fitted - target) + prior @ (line - identity)
        hessian = (columns * (fitted * (1 - fitted))[:, None]).T @ columns + prior
        step = np.linalg.solve(hessian, gradient)
        current = cost(line)
        while cost(line - step) > current and np.abs(step).max() > _SMALL:
            step = step / 2
        line = line - step
        if np.abs(step).max() < _SMALL:
            break
    # Scores that contradict the ground truth are replaced by the frequency, not inverted.
    if line[0] < 0:
        return 0.0, float(logit(np.array(target.mean())))
    return float(line[0]), float(line[1])
