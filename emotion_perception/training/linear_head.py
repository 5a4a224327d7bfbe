"""A linear head on a frozen vision-language model: the cheapest way to score a person.

The hidden states at the position where the language model would begin its answer contain most of
what the model has extracted about a person. A linear layer on them predicts all labels and VAD for
the cost of encoding the images, without a question per label. The most informative layer differs
between models (the last layers prepare words): a head is fitted on each layer, and validation data
selects one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.datasets.emotic import EmoticSplit
from emotion_perception.io import atomic
from emotion_perception.recognizers.vlm import attention, loading, prompts
from emotion_perception.recognizers.vlm.families import FAMILIES
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.training.losses import stacked
from emotion_perception.training.samples import SampleReader

Report = Callable[[str], None]

WEIGHT_DECAYS = (1e-4, 1e-3, 1e-2)
"""Candidates, for states that are normalised; selected together with the layer."""

_LBFGS_STEPS = 60  # more than it takes to converge


@dataclass(frozen=True, slots=True, eq=False)
class _Features:
    """What a head is fitted on."""

    states: torch.Tensor
    """(people, layers, width)."""
    labels: torch.Tensor
    """(people, 26), 0 or 1."""
    vad: torch.Tensor
    """(people, 3) in -1..1; NaN where unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOptions:
    """The options of `emotion-perception head`."""

    settings: VlmSettings
    """How the model is served."""
    root: Path
    """The folder of the data set."""
    split: str = "train"
    """The split that heads are fitted on."""
    val_split: str = "val"
    """The split that selects the layer."""
    keep_shared: bool = False
    """Keep images of `split` that are also in val or test."""


def train_head(options: HeadOptions, report: Report = print) -> tuple[Path, float]:
    """Load the data and train a head; see `train` for the result and the errors."""
    if options.split == options.val_split:
        raise ValueError(
            "cannot select the layer: --split and --val-split are the same; choose two splits"
        )
    train_data = emotic.load(options.root, options.split)
    train_data = emotic.training_images(options.root, train_data, options.keep_shared, report)
    val_data = emotic.load(options.root, options.val_split)
    return train(options.settings, train_data, val_data, report)


def train(
    settings: VlmSettings,
    train_data: EmoticSplit,
    val_data: EmoticSplit,
    report: Report = print,
) -> tuple[Path, float]:
    """Fit a head for every layer, and save the best one beside the adapter or model.

    Returns:
        The folder that the head is written to, and its mAP on the validation data.

    Raises:
        ModelError: The model cannot be packed.
        ValueError: No image of a split can be read, or a split has no positive label.
        OSError: The head cannot be written.
    """
    folder = Path(settings.adapter or loading.find_folder(settings.model))
    atomic.check_writable(folder / "head.safetensors")
    # Any scoring loads the model; the states are those that `scoring: head` will read.
    model = VlmModel(replace(settings, scoring="yes_no"))
    settings = replace(settings, scoring="head")
    try:
        model.set_prompting(settings)
        if model.plan is None:
            raise ModelError(
                f"cannot train a head: {model.name} cannot be packed; choose a model of "
                f"{', '.join(FAMILIES)}"
            )
        layers = list(range(len(attention.language_model(model.model).layers)))
        fitted = _features(model, settings, train_data, layers, report)
        validation = _features(model, settings, val_data, layers, report)
    finally:
        model.close()
    best: tuple[float, Head] | None = None
    for layer in layers:
        for decay in WEIGHT_DECAYS:
            head = _fit(fitted, layer, decay)
            with torch.no_grad():
                scores = head(validation.states[:, layer])[0].sigmoid().numpy()
            mean_ap = metrics.mean_average_precision(validation.labels.numpy() > 0, scores)
            if best is None or mean_ap > best[0]:
                best = mean_ap, head
        report(f"layer {layer}: best mAP so far {best[0]:.4f}" if best else "")
    assert best is not None
    best[1].save(folder)
    return folder, best[0]


def _features(
    model: VlmModel,
    settings: VlmSettings,
    data: EmoticSplit,
    layers: Sequence[int],
    report: Report,
) -> _Features:
    """Compute the states of all people.

    Raises:
        ValueError: No image can be read.
    """
    states: list[torch.Tensor] = []
    labels: list[npt.NDArray[np.bool_]] = []
    vad: list[FloatArray] = []
    for number, (sample,) in enumerate(SampleReader(data).batches(1), 1):
        boxes = [p.box for p in sample.scene.people]
        prompt_images = prompts.make_prompt_images(sample.scene.frame.image, boxes, settings)
        with torch.inference_mode():
            states.append(model.states([prompt_images], layers).cpu())
        labels.append(sample.labels)
        vad.append(sample.vad)
        if number % 200 == 0:
            report(f"{data.split}: {number} of {len(data.images)} images read")
    if not states:
        raise ValueError(f"cannot read any image of the {data.split} split")
    cpu = torch.device("cpu")
    return _Features(torch.cat(states).clone(), stacked(labels, cpu), stacked(vad, cpu))


def _fit(features: _Features, layer: int, decay: float) -> Head:
    """Fit logistic regression of labels and linear regression of VAD by L-BFGS."""
    states, vad = features.states[:, layer], features.vad
    torch.manual_seed(0)
    head = Head(states.shape[1], layer=layer)
    optimizer: Any = torch.optim.LBFGS(
        head.parameters(), max_iter=_LBFGS_STEPS, line_search_fn="strong_wolfe"
    )
    known = ~vad.isnan()

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits, predicted = head(states)
        value = functional.binary_cross_entropy_with_logits(logits, features.labels)
        value = value + functional.mse_loss(predicted[known], vad[known])
        value = value + decay * (head.label.weight.square().sum() + head.vad.weight.square().sum())
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)
    return head.eval()
