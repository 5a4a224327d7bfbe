"""Log-odds and probabilities."""

from __future__ import annotations

import numpy as np

from emotion_perception.core.values import FloatArray

_EDGE = 1e-6  # probabilities are held this far from 0 and 1, where their logit is infinite


def logit(probability: FloatArray) -> FloatArray:
    """Return the log-odds of probabilities, with 0 and 1 clipped to finite values."""
    p = np.clip(np.asarray(probability, np.float64), _EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def probability(logits: FloatArray) -> FloatArray:
    """Return the probabilities of log-odds, the inverse of `logit`."""
    return 1 / (1 + np.exp(-logits))
