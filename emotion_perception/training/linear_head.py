"""A linear head on a frozen vision-language model: the cheapest scoring of all.

The states of the language model where it would begin to answer hold most of what it made of a
person. A linear layer on them gives all labels and the numbers at once, for the price of reading
the pictures: no question is asked. Which layer knows most differs between models (the last ones
prepare words), so that every layer is tried and validation data chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from emotion_perception.core.errors import FrameError, ModelError
from emotion_perception.core.labels import vad_from_emotic
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.datasets.emotic import EmoticSplit
from emotion_perception.recognizers.vlm import attention, loading, prompts
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer

Say = Callable[[str], None]

DECAYS = (1e-4, 1e-3, 1e-2)
"""Of the weights, on standardised labels; chosen on validation data together with the layer."""

_STEPS = 60  # of L-BFGS, more than it takes to settle


def train(
    settings: RecognizerSettings, train_data: EmoticSplit, val_data: EmoticSplit, say: Say = print
) -> tuple[Path, float]:
    """Fit a head for every layer, and keep the best beside the adapter or model.

    Returns:
        Where it was written, and its mAP on the validation data.

    Raises:
        ModelError: the model cannot be packed.
        ValueError: a part of the data has nobody whose picture can be read, or no label.
    """
    # Any scoring makes the model; the states are those that scoring = head will read.
    recognizer = VlmRecognizer(replace(settings, scoring="yes_no"))
    settings = replace(settings, scoring="head")
    recognizer.ask_as(settings)
    layers = list(range(len(attention.language_model(recognizer.model).layers)))
    try:
        seen = _features(recognizer, settings, train_data, layers, say)
        held = _features(recognizer, settings, val_data, layers, say)
    except ValueError as error:
        if "cannot be packed" in str(error):
            raise ModelError(str(error)) from error
        raise
    best: tuple[float, Head] | None = None
    for number, layer in enumerate(layers):
        for decay in DECAYS:
            head = _fit(seen[0][:, number], seen[1], seen[2], layer, recognizer.labels, decay)
            with torch.no_grad():
                scores = head(held[0][:, number])[0].sigmoid().numpy()
            value = metrics.mean_average_precision(held[1].numpy() > 0, scores)
            if best is None or value > best[0]:
                best = value, head
        say(f"layer {layer}: best mAP so far {best[0]:.4f}" if best else "")
    assert best is not None
    folder = Path(settings.adapter or loading.find_folder(settings.model))
    best[1].save(folder)
    recognizer.close()
    return folder, best[0]


def _features(
    recognizer: VlmRecognizer,
    settings: RecognizerSettings,
    data: EmoticSplit,
    layers: Sequence[int],
    say: Say,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, layers, width) states, (N, 26) labels, (N, 3) numbers in -1..1 of everybody."""
    states: list[torch.Tensor] = []
    labels: list[Any] = []
    vads: list[Any] = []
    for scene, people in _readable(data, say):
        shown = prompts.show(scene.frame.image, [p.box for p in people], settings)
        with torch.inference_mode():
            states.append(recognizer.states([shown], layers).cpu())
        labels += [p.labels for p in people]
        vads += [vad_from_emotic(p.vad) for p in people]
    if not states:
        raise ValueError(f"no picture of the {data.split} part can be read")
    return (
        torch.cat(states).clone(),
        torch.from_numpy(np.array(labels, np.float32)),
        torch.from_numpy(np.array(vads, np.float32)),
    )


def _readable(data: EmoticSplit, say: Say) -> Iterator[tuple[Any, Any]]:
    for number, picture in enumerate(data.images):
        try:
            yield picture.scene(), picture.people
        except (FrameError, OSError) as error:
            say(f"left out: {error}")
        if number % 200 == 199:
            say(f"{data.split}: {number + 1} of {len(data.images)} pictures read")


def _fit(
    states: torch.Tensor,
    labels: torch.Tensor,
    vads: torch.Tensor,
    layer: int,
    names: Sequence[str],
    decay: float,
) -> Head:
    """Logistic and linear regression with a decay of the weights, by L-BFGS."""
    torch.manual_seed(0)
    head = Head(states.shape[1], names, layer)
    optimizer: Any = torch.optim.LBFGS(
        head.parameters(), max_iter=_STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits, told = head(states)
        value = functional.binary_cross_entropy_with_logits(logits, labels)
        known = ~vads.isnan()
        value = value + functional.mse_loss(told[known], vads[known])
        value = value + decay * (head.label.weight.square().sum() + head.vad.weight.square().sum())
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)
    return head.eval()
