"""What a vision-language model is trained on: the very logits that serving reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from emotion_perception.emotions import EMOTIC_LABELS, VAD
from emotion_perception.recognizers import prompts
from emotion_perception.recognizers.vlm import VlmRecognizer
from emotion_perception.settings import RecognizerSettings
from emotion_perception.values import FloatArray, Scene


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture with the truth about the people in it."""

    scene: Scene
    labels: npt.NDArray[np.bool_]
    """(people, 26)."""
    vad: FloatArray
    """(people, 3) in -1..1; NaN where unknown."""
    helpers: npt.NDArray[np.bool_] | None = None
    """(people, H): the truth about the helping questions, if there are any."""


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part of the loss counts."""

    vad: float = 0.5
    helpers: float = 0.5


def scores_loss(
    recognizer: VlmRecognizer,
    settings: RecognizerSettings,
    samples: Sequence[Sample],
    weights: Weights,
    balance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Of all people of these pictures, in one packed pass.

    Binary cross-entropy on the log-odds of yes against no for each label, squared error of the
    expected digit for each number, and cross-entropy on the helping questions.

    Args:
        balance: (26,) weights of the labels' positives; None: all count alike.
    """
    rounds = [
        prompts.show(s.scene.frame.image, [p.box for p in s.scene.people], settings)
        for s in samples
    ]
    likings = recognizer.logits(rounds)
    device = likings[0].device
    count = len(EMOTIC_LABELS)
    labels = _tensor([s.labels for s in samples], device)
    loss = functional.binary_cross_entropy_with_logits(
        log_odds(likings[:count]), labels, pos_weight=balance
    )
    vad = _tensor([s.vad for s in samples], device)
    told = torch.stack([expectation(x) for x in likings[count : count + len(VAD)]], 1)
    known = ~vad.isnan()
    if known.any():
        loss = loss + weights.vad * functional.mse_loss(told[known], vad[known])
    helping = likings[count + len(VAD) :]
    if helping:
        facts = [s.helpers for s in samples if s.helpers is not None]
        loss = loss + weights.helpers * functional.binary_cross_entropy_with_logits(
            log_odds(helping), _tensor(facts, device)
        )
    return loss


def log_odds(likings: Sequence[torch.Tensor]) -> torch.Tensor:
    """(people, questions) of yes against no, from (people, 2) for each question."""
    return torch.stack([x[:, 0] - x[:, 1] for x in likings], 1)


def expectation(likings: torch.Tensor) -> torch.Tensor:
    """(people,) in -1..1, from (people, 9): as `scoring.expectation`, with gradients."""
    scale = torch.linspace(-1, 1, likings.shape[1], device=likings.device)
    return likings.softmax(1) @ scale


def _tensor(rows: Sequence[npt.NDArray[np.generic]], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(device)
