"""The losses of all trainings, computed on the logits that serving reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from emotion_perception.core.labels import EMOTIC_LABELS, VAD
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.values import FloatArray
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.recognizers.vlm.scoring import with_continuation
from emotion_perception.training.samples import Sample

EFFECTIVE_NUMBER_BETA = 0.999
"""Beta of `positive_weights`; Cui et al. tried 0.9 to 0.9999."""

MAX_POSITIVE_WEIGHT = 10.0
"""Upper bound of `positive_weights`, so that a single person does not dominate a batch."""


VAD_WEIGHT = 0.5
"""Weight of the loss of VAD, relative to that of the labels."""

AUXILIARY_WEIGHT = 0.5
"""Weight of the loss of the auxiliary questions, relative to that of the labels."""


def packed_loss(
    vlm: VlmModel,
    settings: VlmSettings,
    samples: Sequence[Sample],
    positive_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss over all people of these samples, in one packed forward pass.

    See `answer_logprob_loss`.
    """
    rounds = [
        prompts.make_prompt_images(s.scene.frame.image, [p.box for p in s.scene.people], settings)
        for s in samples
    ]
    return answer_logprob_loss(vlm.answer_logprobs(rounds), samples, positive_weight)


def answer_logprob_loss(
    answer_logprobs: Sequence[torch.Tensor],
    samples: Sequence[Sample],
    positive_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of the answer log-probabilities of a model.

    It is the sum of the binary cross-entropy on the log-odds of yes against no for each label, the
    squared error of the expected digit for each VAD dimension, and the binary cross-entropy on the
    auxiliary questions.

    Args:
        answer_logprobs: For each question (people, answers), up to a constant per person: labels
            first, then VAD, then auxiliary questions.
        samples: The ground truth of the same people.
        positive_weight: (26,) weights of the labels' positives; None: all weights are 1.
    """
    first_vad = len(EMOTIC_LABELS)
    first_auxiliary = first_vad + len(VAD)
    vad = torch.stack([expectation(x) for x in answer_logprobs[first_vad:first_auxiliary]], 1)
    loss = label_and_vad_loss(log_odds(answer_logprobs[:first_vad]), vad, samples, positive_weight)
    if auxiliary := answer_logprobs[first_auxiliary:]:
        truth = [s.auxiliary for s in samples if s.auxiliary is not None]
        loss = loss + AUXILIARY_WEIGHT * functional.binary_cross_entropy_with_logits(
            log_odds(auxiliary), stacked(truth, loss.device)
        )
    return loss


def label_and_vad_loss(
    logits: torch.Tensor,
    vad: torch.Tensor,
    samples: Sequence[Sample],
    positive_weight: torch.Tensor | None,
) -> torch.Tensor:
    """Return the loss of label logits (people, 26) and VAD (people, 3) in -1..1."""
    labels = stacked([s.labels for s in samples], logits.device)
    loss = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight)
    true_vad = stacked([s.vad for s in samples], logits.device)
    known = ~true_vad.isnan()
    if known.any():
        loss = loss + VAD_WEIGHT * functional.mse_loss(vad[known], true_vad[known])
    return loss


def answer_token_loss(rows: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Return the mean cross-entropy of the answer tokens, each given the correct ones before it.

    This is the objective of LLaVA (Liu et al. 2023), on which Etesam et al. 2024 build.

    Args:
        rows: For each person the logits (T, vocabulary) that predict the answer, and its (T,)
            tokens.
    """
    sums = [(functional.cross_entropy(x.float(), y, reduction="sum"), len(y)) for x, y in rows]
    return torch.stack([loss for loss, _ in sums]).sum() / sum(tokens for _, tokens in sums)


def answer_text(labels: npt.NDArray[np.bool_]) -> str:
    """Return the correct answer in words for labels (26,), in the order of the paper's prompt."""
    present = dict(zip(EMOTIC_LABELS, labels, strict=True))
    return ", ".join(label for label in prompts.PAPER_ORDER if present[label])


def answer_tokens(
    tokenizer: Any, prompt: str, labels: npt.NDArray[np.bool_]
) -> tuple[str, list[int]]:
    """Return the prompt with the correct answer (26,), and the tokens of the answer."""
    text = with_continuation(prompt, answer_text(labels)) + tokenizer.eos_token
    prompt_ids, text_ids = (
        tokenizer(x, add_special_tokens=False)["input_ids"] for x in (prompt, text)
    )
    shared = 0  # the first word of the answer may merge with the last space of the prompt
    while shared < len(prompt_ids) and prompt_ids[shared] == text_ids[shared]:
        shared += 1
    return text, text_ids[shared:]


def log_odds(answer_logprobs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return (people, questions) log-odds of yes against no, from (people, 2) per question."""
    return torch.stack([x[:, 0] - x[:, 1] for x in answer_logprobs], 1)


def expectation(answer_logprobs: torch.Tensor) -> torch.Tensor:
    """Return (people,) expected values in -1..1 from (people, 9) answers, from low to high.

    Same as `scoring.expected_value`, with gradients.
    """
    scale = torch.linspace(-1, 1, answer_logprobs.shape[1], device=answer_logprobs.device)
    return answer_logprobs.softmax(1) @ scale


def stacked(rows: Sequence[npt.NDArray[np.generic]], device: torch.device) -> torch.Tensor:
    """Concatenate ground truth (people, ...) of several samples to one float32 tensor."""
    return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(device)


def positive_weights(truth: npt.NDArray[np.bool_]) -> FloatArray:
    """Return (L,) loss weights of the positives of each label, from the ground truth (people, L).

    The weight is the effective number of samples, (1 - beta^n) / (1 - beta), of the people without
    the label divided by that of the people with it (Cui et al., "Class-Balanced Loss Based on
    Effective Number of Samples", CVPR 2019), clipped to 1 / `MAX_POSITIVE_WEIGHT` ..
    `MAX_POSITIVE_WEIGHT`. A label that no person has gets 1, which has no effect.
    """
    positives = truth.sum(axis=0)
    positive_size, negative_size = (
        1 - EFFECTIVE_NUMBER_BETA**n for n in (positives, len(truth) - positives)
    )
    ratio = np.divide(
        negative_size, positive_size, out=np.ones(len(positives)), where=positives > 0
    )
    clipped: FloatArray = np.clip(ratio, 1 / MAX_POSITIVE_WEIGHT, MAX_POSITIVE_WEIGHT)
    return clipped
