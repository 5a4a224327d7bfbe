"""A small YOLO that knows the two photographs of the ultralytics wheel, made here in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.perception.detection import import_ultralytics
from emotion_perception.toy_world.training import yolo

IMAGE_SIZE = 320
"""The picture size, in pixels, that the model was trained at: set `detector.image_size` to it."""

NAMES = {0: "bus", 1: "person"}

PEOPLE_WITH_FACES = {
    "bus.jpg": [(50, 398, 246, 903), (223, 405, 345, 860)],
    "zidane.jpg": [(122, 202, 1153, 720), (750, 42, 1136, 720)],
}
"""Their true boxes (left, top, right, bottom in pixels), measured by eye."""

OTHERS = {
    "bus.jpg": [(1, (668, 392, 810, 880)), (1, (0, 552, 79, 873)), (0, (5, 230, 804, 740))],
    "zidane.jpg": [],
}
"""Class and box of everything else that the model is to know: two people cut off, the bus."""


def photograph(name: str) -> Path:
    """bus.jpg or zidane.jpg, as the ultralytics wheel brings them."""
    return Path(import_ultralytics().__file__).parent / "assets" / name


def make_yolo(path: Path, steps: int = 160) -> Path:
    """Train the architecture of YOLO11, half as wide as "n", on the two photographs; save it.

    Takes about 20 s on one core. The same seed gives the same weights on one machine.
    """
    random = np.random.default_rng(0)
    examples = [_example(name) for name in PEOPLE_WITH_FACES]
    return yolo.train(path, NAMES, lambda step: _batch(examples, random), steps)


@dataclass(frozen=True)
class _Example:
    image: npt.NDArray[np.uint8]
    """RGB, its longer side `IMAGE_SIZE`."""
    kinds: list[int]
    boxes: npt.NDArray[np.float64]
    """(N, 4) pixels of the image."""


def _example(name: str) -> _Example:
    image = cv2.cvtColor(cv2.imread(str(photograph(name))), cv2.COLOR_BGR2RGB)
    scale = IMAGE_SIZE / max(image.shape)
    known = [(1, box) for box in PEOPLE_WITH_FACES[name]] + OTHERS[name]
    return _Example(
        cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA),
        [kind for kind, _ in known],
        np.array([box for _, box in known]) * scale,
    )


def _batch(examples: list[_Example], random: np.random.Generator) -> list[yolo.Example]:
    """Every example, up to a tenth smaller and somewhere on a square canvas."""
    found = []
    for example in examples:
        height, width = example.image.shape[:2]
        scale = random.uniform(0.9, 1.0)
        x, y = random.uniform(0, [IMAGE_SIZE - width * scale, IMAGE_SIZE - height * scale])
        place = np.array([[scale, 0, x], [0, scale, y]])
        size = (IMAGE_SIZE, IMAGE_SIZE)
        canvas = cv2.warpAffine(example.image, place, size, borderValue=(114,) * 3)
        found.append((canvas, example.kinds, example.boxes * scale + [x, y, x, y]))
    return found
