"""A small YOLO, trained in seconds on the two sample photographs of the ultralytics wheel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import ImageArray
from emotion_perception.io.image_decoding import decode_image
from emotion_perception.perception.detection import import_ultralytics
from emotion_perception.toy_world.training import yolo

IMAGE_SIZE = 320
"""Training image size of the model, in pixels: set `detector.image_size` to it."""

NAMES = {0: "bus", 1: "person"}

PEOPLE_WITH_FACES = {
    "bus.jpg": [(50, 398, 246, 903), (223, 405, 345, 860)],
    "zidane.jpg": [(122, 202, 1153, 720), (750, 42, 1136, 720)],
}
"""Photograph to the boxes (left, top, right, bottom; px) of people with faces, set by hand."""

OTHERS = {
    "bus.jpg": [(1, (668, 392, 810, 880)), (1, (0, 552, 79, 873)), (0, (5, 230, 804, 740))],
    "zidane.jpg": [],
}
"""Photograph to class and box of the other objects: two people at the edge, the bus."""


def photograph(name: str) -> Path:
    """Return the path of bus.jpg or zidane.jpg in the ultralytics wheel."""
    return Path(import_ultralytics().__file__).parent / "assets" / name


def make_yolo(path: Path, steps: int = 160) -> Path:
    """Train a YOLO11 of half the width of "n" on the two photographs and save it.

    Training takes about 20 s on one core. The same seed gives the same weights on one machine.
    """
    random = np.random.default_rng(0)
    examples = [_example(name) for name in PEOPLE_WITH_FACES]
    return yolo.train(path, NAMES, lambda step: _batch(examples, random), steps)


@dataclass(frozen=True)
class _Example:
    image: ImageArray
    """RGB; its longer side has `IMAGE_SIZE` pixels."""
    classes: list[int]
    boxes: npt.NDArray[np.float64]
    """(N, 4) left, top, right, bottom in pixels."""


def _example(name: str) -> _Example:
    image = decode_image(np.fromfile(photograph(name), np.uint8))
    scale = IMAGE_SIZE / max(image.shape)
    objects = [(1, box) for box in PEOPLE_WITH_FACES[name]] + OTHERS[name]
    resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _Example(
        np.asarray(resized, np.uint8),
        [number for number, _ in objects],
        np.array([box for _, box in objects]) * scale,
    )


def _batch(examples: list[_Example], random: np.random.Generator) -> list[yolo.Example]:
    """Return all examples, scaled by 0.9 to 1 and at a random place of a square canvas."""
    batch: list[yolo.Example] = []
    for example in examples:
        height, width = example.image.shape[:2]
        scale = random.uniform(0.9, 1.0)
        x, y = random.uniform(0, [IMAGE_SIZE - width * scale, IMAGE_SIZE - height * scale])
        place = np.array([[scale, 0, x], [0, scale, y]])
        size = (IMAGE_SIZE, IMAGE_SIZE)
        canvas = cv2.warpAffine(example.image, place, size, borderValue=(114,) * 3)
        boxes = example.boxes * scale + [x, y, x, y]
        batch.append((np.asarray(canvas, np.uint8), example.classes, boxes))
    return batch
