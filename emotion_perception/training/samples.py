"""The training samples: images with the ground truth of their people, read and drawn on demand.

The images of a step depend only on the seed and the number of the step, so that a resumed training
sees the same images as an uninterrupted one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from emotion_perception.core.errors import FrameError
from emotion_perception.core.labels import EMOTIC_LABELS, vad_from_emotic
from emotion_perception.core.values import FloatArray, Scene
from emotion_perception.evaluation.ablations import ablate
from emotion_perception.evaluation.datasets.emotic import EmoticSplit

log = logging.getLogger(__name__)

ABLATED_INPUTS = ("person", "scene", "text")
"""Ablations of `evaluation.ablations` that input dropout draws from."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One image with the ground truth of its people."""

    scene: Scene
    labels: npt.NDArray[np.bool_]
    """(people, 26)."""
    vad: FloatArray
    """(people, 3) in -1..1; NaN where unknown."""
    auxiliary: npt.NDArray[np.bool_] | None = None
    """(people, A): correct answers to the auxiliary yes/no questions, if there are any."""


class SampleReader:
    """Read the images of a split as samples when they are needed."""

    def __init__(self, data: EmoticSplit, seed: int = 0, ablation_rate: float = 0.0) -> None:
        """Prepare to read; no image is opened yet.

        Args:
            data: The split of the data set.
            seed: Seed of the order of the images and of the ablations.
            ablation_rate: Share of the images of which only one person is shown, with part of the
                input hidden.
        """
        self._data, self._seed, self._ablation_rate = data, seed, ablation_rate
        self._skipped: set[int] = set()

    def __len__(self) -> int:
        return len(self._data.images)

    def draw(self, start: int, count: int) -> list[Sample]:
        """Return `count` samples of an endless sequence in which each epoch has its own order.

        An image that cannot be read is replaced by the next one of the epoch.

        Raises:
            ValueError: No image can be read.
        """
        samples = []
        for position in range(start, start + count):
            epoch, offset = divmod(position, len(self))
            order = np.random.default_rng((self._seed, epoch)).permutation(len(self))
            for i in range(len(self)):
                index = int(order[(offset + i) % len(self)])
                if (sample := self._read(index, epoch)) is not None:
                    samples.append(sample)
                    break
            else:
                raise ValueError(f"cannot read any image of the {self._data.split} split")
        return samples

    def batches(self, size: int) -> Iterator[list[Sample]]:
        """Yield all readable samples once, in the order of the data set."""
        for start in range(0, len(self), size):
            indices = range(start, min(start + size, len(self)))
            if batch := [s for i in indices if (s := self._read(i, 0)) is not None]:
                yield batch

    def _read(self, index: int, epoch: int) -> Sample | None:
        image = self._data.images[index]
        try:
            scene = image.scene()
        except (FrameError, OSError) as error:
            self._skip(index, f"skipping {image.path}: {error}")
            return None
        people = image.people
        random = np.random.default_rng((self._seed, epoch, index, 1))
        if random.random() < self._ablation_rate:
            chosen = int(random.integers(len(people)))
            ablation, people = str(random.choice(ABLATED_INPUTS)), (people[chosen],)
            mask = people[0].read_mask(scene.frame)
            scene = ablate(scene, scene.people[chosen], ablation, None, mask)
        labels = np.array([person.labels for person in people])
        return Sample(scene, labels, np.array([vad_from_emotic(person.vad) for person in people]))

    def _skip(self, index: int, reason: str) -> None:
        if index not in self._skipped:
            self._skipped.add(index)
            log.warning(reason)


def one_person_per_image(data: EmoticSplit) -> EmoticSplit:
    """Return the data set with an image for each person, which shows only this annotation."""
    images = [replace(image, people=(person,)) for image in data.images for person in image.people]
    return replace(data, images=tuple(images))


def draw_people(data: EmoticSplit, count: int, seed: int) -> EmoticSplit:
    """Return the data set with `count` of its people, drawn with the seed, and their images.

    Raises:
        ValueError: The split has fewer people.
    """
    total = len(data.people)
    if not 0 < count <= total:
        raise ValueError(f"cannot draw {count} people: the {data.split} split has {total}")
    chosen = set(np.random.default_rng((seed, 2)).permutation(total)[:count].tolist())
    images, first = [], 0
    for image in data.images:
        indices = range(first, first := first + len(image.people))
        people = [p for i, p in zip(indices, image.people, strict=True) if i in chosen]
        if people:
            images.append(replace(image, people=tuple(people)))
    return replace(data, images=tuple(images))


def absent_labels(data: EmoticSplit) -> list[str]:
    """Return the labels that no person of the data set has."""
    count = data.truth.sum(axis=0)
    return [label for label, n in zip(EMOTIC_LABELS, count, strict=True) if not n]
