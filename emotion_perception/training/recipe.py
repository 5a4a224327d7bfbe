"""The recipe of a training: its options, the paper's presets, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from emotion_perception.core.schema import Setting, setting
from emotion_perception.evaluation.systems import SYSTEMS
from emotion_perception.recognizers.registry import RECOGNIZERS


@dataclass(frozen=True, slots=True)
class Recipe:
    """The options of a training, each defined once; the command line is generated from them."""

    split: str = setting("train", "split to train on", choices=("train", "val"))
    val_split: str = setting(
        "val",
        "split that selects the best state; none: keep the last state",
        choices=("val", "none"),
    )
    people: int = setting(
        0, "train on at most this many people, drawn with the seed; 0: all", minimum=0
    )
    val_people: int = setting(500, "validate on at most this many people; 0: all", minimum=0)
    keep_shared: bool = setting(
        False, "keep training images that are also in val or test, as the paper does"
    )
    objective: str = setting(
        "scores",
        "adapters only: train the served scores, or the generated answer as in the paper",
        choices=("scores", "answer"),
    )
    rank: int = setting(16, "adapters only: rank of LoRA", minimum=1, maximum=4096)
    alpha: int = setting(32, "adapters only: LoRA is scaled by alpha / rank", minimum=1)
    dropout: float = setting(
        0.05, "adapters only: dropout on the input of LoRA", minimum=0.0, maximum=0.9
    )
    target: str = setting(
        "all-linear", "adapters only: layers that get LoRA: all-linear, or names such as q_proj,..."
    )
    train_vision: bool = setting(False, "adapters only: also put LoRA into the vision tower")
    train_projector: bool = setting(
        False, "adapters only: train all weights between the vision tower and the language model"
    )
    projector_lr: float = setting(
        0.0, "learning rate of the projector; 0: same as lr", minimum=0.0, maximum=1.0
    )
    lr: float = setting(1e-4, "learning rate of AdamW", minimum=0.0, maximum=1.0)
    schedule: str = setting(
        "cosine",
        "how the learning rate decays to 0 after the warm-up",
        choices=("cosine", "linear"),
    )
    warmup: float = setting(
        0.03, "share of the steps in which the learning rate rises", minimum=0.0, maximum=1.0
    )
    weight_decay: float = setting(0.0, "weight decay of AdamW", minimum=0.0, maximum=1.0)
    epochs: float = setting(1.0, "passes over all examples", minimum=0.0, maximum=10_000.0)
    steps: int = setting(0, "optimizer steps, instead of epochs; 0: use epochs", minimum=0)
    example: str = setting(
        "image",
        "what batches and epochs count: images with all their people, or people one by one",
        choices=("image", "person"),
    )
    batch: int = setting(4, "examples per forward pass", minimum=1, maximum=4096)
    accumulate: int = setting(1, "forward passes per optimizer step", minimum=1, maximum=4096)
    precision: str = setting(
        "auto",
        "mixed precision; auto: bf16 on a GPU that supports it, otherwise no",
        choices=("auto", "no", "bf16", "fp16"),
    )
    checkpoint_activations: bool = setting(
        False, "adapters only: recompute activations in the backward pass to save memory"
    )
    seed: int = setting(0, "seed of all random draws", minimum=0)
    input_dropout: float = setting(
        0.0,
        "share of the images of which only one person is shown, with part of the input hidden",
        minimum=0.0,
        maximum=1.0,
    )
    balance: bool = setting(False, "weight the positives of rare labels more")
    every: int = setting(
        0, "steps between two validations and checkpoints; 0: a tenth of all", minimum=0
    )
    patience: int = setting(
        0, "stop after this many validations without improvement; 0: never", minimum=0
    )

    @classmethod
    def from_options(cls, options: Mapping[str, Any], preset: str = "") -> Recipe:
        """Combine options, preset and defaults; options take precedence over the preset.

        Raises:
            ValueError: The preset or an option does not exist, a value is not allowed, or two
                values contradict each other.
        """
        if preset and preset not in PRESETS:
            raise ValueError(
                f"cannot use preset {preset!r}: it does not exist; choose one of "
                f"{', '.join(PRESETS)}"
            )
        values = {**PRESETS.get(preset, {}), **options}
        if unknown := [name for name in values if name not in OPTIONS]:
            raise ValueError(
                f"cannot use recipe option {unknown[0]!r}: it does not exist; choose from "
                f"{', '.join(OPTIONS)}"
            )
        checked: dict[str, Any] = {n: OPTIONS[n].validate(value) for n, value in values.items()}
        recipe = cls(**checked)
        if recipe.split == recipe.val_split:
            raise ValueError(
                f"cannot use --val-split {recipe.val_split}: it would select the best state on the "
                "training data; set it to none"
            )
        if not (recipe.steps or recipe.epochs):
            raise ValueError("cannot train for 0 epochs and 0 steps: set one of them")
        if recipe.patience and recipe.val_split == "none":
            raise ValueError(
                "cannot use --patience: it needs a --val-split to measure improvement on"
            )
        if recipe.balance and recipe.objective == "answer":
            raise ValueError(
                "cannot use --balance: it weights labels, but --objective answer has no loss per "
                "label; remove it"
            )
        return recipe

    def learning_rate_factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate at a step of `steps`, counted from 0."""
        warmup_steps = math.ceil(self.warmup * steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        share = (step - warmup_steps) / max(steps - warmup_steps, 1)
        return 0.5 + 0.5 * math.cos(math.pi * share) if self.schedule == "cosine" else 1 - share


OPTIONS = {
    item.name: Setting(item.name, getattr(Recipe(), item.name), **item.metadata)
    for item in fields(Recipe)
}
"""The definition of each recipe option by its name."""

_PAPER = {
    "objective": "answer",
    "rank": 128,
    "alpha": 256,
    "lr": 2e-4,
    "train_projector": True,
    "projector_lr": 2e-5,
    "schedule": "cosine",
    "warmup": 0.03,
    "epochs": 1.0,
    "example": "person",
    "batch": 4,
    "accumulate": 16,
    "val_split": "none",
    "keep_shared": True,
}
_ON_VAL = {**_PAPER, "split": "val"}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    "paper-val": _ON_VAL,
    "paper-100": {**_ON_VAL, "people": 100},
}
"""The trainings of Etesam et al. 2024: on train, on val, on 100 people of val."""

PAPER_SOURCES = (
    "known of the paper's training: LLaVA-1.5-13B with LoRA; rank 128 on all linear layers, from "
    "the size of the published adapter; a trained projector, from its file; 23,266 people of train",
    "guessed: alpha 256, learning rates 2e-4 and 2e-5, cosine with 3 % warm-up and 1 epoch, from "
    "the recipe of LLaVA-1.5; 64 people per step, since the authors' log has the size of about 370 "
    "steps; the last state is kept, as LLaVA does",
    "images that train and val share stay in train, since nothing says that the authors left them "
    "out; unknown: dropout, seed, and the augmentation of their val set",
)
"""What the presets rest on (github.com/haotian-liu/LLaVA and the authors' published files)."""


def trainable_systems() -> tuple[str, ...]:
    """Return the systems that can be fine-tuned: those that do not need an adapter already."""
    return tuple(
        name
        for name, system in SYSTEMS.items()
        if RECOGNIZERS[system.settings["name"]].objectives and "adapter" not in system.needs
    )
