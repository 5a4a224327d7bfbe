"""What a training is made of, without any model: its recipe, and the samples that it draws.

Which pictures a step sees depends on the seed and the number of the step alone, so that a training
goes on after an interruption as if there had been none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.errors import FrameError
from emotion_perception.core.labels import EMOTIC_LABELS, vad_from_emotic
from emotion_perception.core.settings import Setting, setting
from emotion_perception.core.values import FloatArray, Scene
from emotion_perception.evaluation.ablations import ablate
from emotion_perception.evaluation.datasets.emotic import EmoticSplit

log = logging.getLogger(__name__)

LESS = ("person", "scene", "text")
"""Parts of the input that a share of the people is shown alone, see `inputs`."""

BETA = 0.999
"""Of `positive_weights`: how many people of a label are news. Cui et al. tried 0.9 to 0.9999."""

MOST = 10.0
"""Bound of `positive_weights`, from which on one person would lead everybody."""


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
class Recipe:
    """How something is trained; every option once."""

    split: str = setting("train", "what it learns from", choices=("train", "val"))
    val_split: str = setting(
        "val", "what chooses the best state; none: the last is kept", choices=("val", "none")
    )
    people: int = setting(0, "learn from so many people only, drawn by the seed; 0: all", minimum=0)
    val_people: int = setting(500, "validate on at most so many people; 0: all", minimum=0)
    objective: str = setting(
        "scores",
        "adapters only: the scores that are served, or the answer in words as in the paper",
        choices=("scores", "answer"),
    )
    rank: int = setting(16, "adapters only: rank of LoRA", minimum=1, maximum=4096)
    alpha: int = setting(32, "adapters only: LoRA counts alpha / rank times", minimum=1)
    dropout: float = setting(0.05, "adapters only: of the input of LoRA", minimum=0.0, maximum=0.9)
    target: str = setting(
        "all-linear", "adapters only: the layers that get LoRA, all-linear or q_proj,v_proj,..."
    )
    train_vision: bool = setting(False, "adapters only: LoRA in the vision tower, too")
    train_projector: bool = setting(
        False, "adapters only: train all of what leads from the vision tower to the language model"
    )
    projector_lr: float = setting(0.0, "its learning rate; 0: the same", minimum=0.0, maximum=1.0)
    lr: float = setting(1e-4, "learning rate of AdamW", minimum=0.0, maximum=1.0)
    schedule: str = setting(
        "cosine", "how the rate goes down to 0 after the warm-up", choices=("cosine", "linear")
    )
    warmup: float = setting(0.03, "share of the steps that it goes up", minimum=0.0, maximum=1.0)
    weight_decay: float = setting(0.0, "of AdamW", minimum=0.0, maximum=1.0)
    epochs: float = setting(1.0, "how often each picture is seen", minimum=0.0, maximum=10_000.0)
    steps: int = setting(
        0, "instead of epochs: so many steps of the optimizer; 0: epochs", minimum=0
    )
    batch: int = setting(4, "pictures in one pass", minimum=1, maximum=4096)
    accumulate: int = setting(1, "passes in one step", minimum=1, maximum=4096)
    precision: str = setting(
        "auto",
        "of the computation: auto is bf16 on a GPU that has it, otherwise no",
        choices=("auto", "no", "bf16", "fp16"),
    )
    checkpoint_activations: bool = setting(
        False, "adapters only: compute twice instead of keeping activations, which saves memory"
    )
    seed: int = setting(0, "of everything that is drawn", minimum=0)
    input_dropout: float = setting(
        0.0,
        "share of the pictures of which somebody is shown by a part alone",
        minimum=0.0,
        maximum=1.0,
    )
    balance: bool = setting(False, "rare labels count more where they are present")
    every: int = setting(0, "validate and save after so many steps; 0: ten times in all", minimum=0)
    patience: int = setting(
        0, "stop after so many validations without a better one; 0: never", minimum=0
    )

    @classmethod
    def of(cls, given: Mapping[str, Any], preset: str = "") -> Recipe:
        """What is given, over what the preset says, over the defaults.

        Raises:
            ValueError: there is no such preset, a name does not exist, a value is not allowed, or
                two of them contradict each other.
        """
        if preset and preset not in PRESETS:
            raise ValueError(f"there is no preset {preset!r}: choose one of {', '.join(PRESETS)}")
        values = {**PRESETS.get(preset, {}), **given}
        if wrong := [name for name in values if name not in OPTIONS]:
            raise ValueError(f"a training has no {wrong[0]!r}, only {', '.join(OPTIONS)}")
        checked: dict[str, Any] = {n: OPTIONS[n].validate(value) for n, value in values.items()}
        recipe = cls(**checked)
        if recipe.split == recipe.val_split:
            raise ValueError(
                f"--val-split {recipe.val_split} would choose by the people that are learnt from: "
                "set it to none"
            )
        if not (recipe.steps or recipe.epochs):
            raise ValueError("0 epochs and 0 steps: nothing would be learnt")
        if recipe.patience and recipe.val_split == "none":
            raise ValueError("--patience needs a --val-split to tell what is better")
        if recipe.balance and recipe.objective == "answer":
            raise ValueError("--balance weights labels, and an answer in words has none: leave out")
        return recipe

    def rate(self, step: int, steps: int) -> float:
        """The factor of the learning rate at one of `steps` steps, counted from 0."""
        up = math.ceil(self.warmup * steps)
        if step < up:
            return (step + 1) / up
        done = (step - up) / max(steps - up, 1)
        return 0.5 + 0.5 * math.cos(math.pi * done) if self.schedule == "cosine" else 1 - done


OPTIONS = {
    item.name: Setting(item.name, getattr(Recipe(), item.name), **item.metadata)
    for item in fields(Recipe)
}
"""What is known about each part of a recipe, by its name."""

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
    "batch": 4,
    "accumulate": 16,
}
_ON_VAL = {**_PAPER, "split": "val", "val_split": "none"}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    "paper-val": _ON_VAL,
    "paper-100": {**_ON_VAL, "people": 100},
}
"""Etesam et al. 2024: LLaVA-1.5's own recipe for LoRA (github.com/haotian-liu/LLaVA), of which the
size of their adapters gives the rank away; about 64 pictures a step, as their log has lines. They
trained on the training part, on the validation part, and on 100 people of it."""


class Samples:
    """The pictures of a part of the data set, read when they are needed."""

    def __init__(self, data: EmoticSplit, seed: int = 0, less: float = 0.0) -> None:
        """
        Args:
            less: the share of pictures of which one person is shown by a part alone.
        """
        self._data, self._seed, self._less = data, seed, less
        self._told: set[int] = set()

    def __len__(self) -> int:
        return len(self._data.images)

    def drawn(self, start: int, count: int) -> list[Sample]:
        """`count` pictures from an endless row, in which each epoch has an order of its own.

        One that cannot be read, or shows nobody, gives way to the next one that can.

        Raises:
            ValueError: none can be read.
        """
        found = []
        for place in range(start, start + count):
            epoch, number = divmod(place, len(self))
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self))
            for i in range(len(self)):
                index = int(order[(number + i) % len(self)])
                if (sample := self._sample(index, epoch)) is not None:
                    found.append(sample)
                    break
            else:
                raise ValueError(f"no picture of the {self._data.split} part can be read")
        return found

    def in_order(self, batch: int) -> Iterator[list[Sample]]:
        """Everybody who can be seen, once."""
        for start in range(0, len(self), batch):
            numbers = range(start, min(start + batch, len(self)))
            if found := [s for i in numbers if (s := self._sample(i, 0)) is not None]:
                yield found

    def _sample(self, index: int, epoch: int) -> Sample | None:
        picture = self._data.images[index]
        try:
            scene = picture.scene()
        except (FrameError, OSError) as error:
            self._skip(index, f"{picture.path} is left out: {error}")
            return None
        width, height = scene.frame.width, scene.frame.height
        seen = [
            (person, track)
            for person, track in zip(picture.people, scene.people, strict=True)
            if track.box.clipped(width, height).area > 0
        ]
        if not seen:
            self._skip(index, f"{picture.path} is left out: its people are outside")
            return None
        scene = Scene(scene.frame, tuple(track for _, track in seen))
        random = np.random.default_rng((self._seed, epoch, index, 1))
        if random.random() < self._less:
            chosen = seen[int(random.integers(len(seen)))]
            part, (person, track) = str(random.choice(LESS)), chosen
            mask = person.read_mask(scene.frame)
            scene, seen = ablate(scene, track, part, None, mask), [chosen]
        labels = np.array([person.labels for person, _ in seen])
        return Sample(scene, labels, np.array([vad_from_emotic(person.vad) for person, _ in seen]))

    def _skip(self, index: int, reason: str) -> None:
        if index not in self._told:
            self._told.add(index)
            log.warning(reason)


def some_people(data: EmoticSplit, count: int, seed: int) -> EmoticSplit:
    """So many people, drawn by the seed, in the pictures they are in.

    Raises:
        ValueError: there are not so many.
    """
    everybody = len(data.people)
    if not 0 < count <= everybody:
        raise ValueError(f"the {data.split} part has {everybody} people, {count} are asked for")
    chosen = set(np.random.default_rng((seed, 2)).permutation(everybody)[:count].tolist())
    pictures, number = [], 0
    for picture in data.images:
        numbers = range(number, number := number + len(picture.people))
        people = [p for i, p in zip(numbers, picture.people, strict=True) if i in chosen]
        if people:
            pictures.append(replace(picture, people=tuple(people)))
    return replace(data, images=tuple(pictures))


def absent(data: EmoticSplit) -> list[str]:
    """The labels that nobody has."""
    count = data.truth.sum(axis=0)
    return [label for label, n in zip(EMOTIC_LABELS, count, strict=True) if not n]


def positive_weights(truth: npt.NDArray[np.bool_]) -> FloatArray:
    """(L,): how much more it counts where a label is present than where it is not.

    The effective number of samples, (1 - BETA^n) / (1 - BETA), of those without the label through
    that of those with it: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
    CVPR 2019. Between 1 / MOST and MOST. A label that nobody has gets 1, which is never used.
    """
    present = truth.sum(axis=0)
    having, lacking = (1 - BETA**n for n in (present, len(truth) - present))
    found = np.divide(lacking, having, out=np.ones(len(present)), where=present > 0)
    clipped: FloatArray = np.clip(found, 1 / MOST, MOST)
    return clipped
