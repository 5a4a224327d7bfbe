"""Helpers of all recognizers that do not depend on a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from emotion_perception.core.values import Assessment, Box, Frame, ImageArray, Scene, Track

_GENERIC_NAMES = {
    *("adapter", "best", "caption", "checkpoint", "clip", "cnn", "final", "head", "llm", "model"),
    "vlm",
}


def model_name(model: str) -> str:
    """Return the last part of a path or hub name, after the folder if it alone says nothing.

    >>> model_name("Qwen/Qwen3-VL-2B-Instruct"), model_name("data/small_world/vlm")
    ('Qwen3-VL-2B-Instruct', 'small_world/vlm')
    """
    path = Path(model)
    folder = path.absolute().parent.name
    return f"{folder}/{path.name}" if path.name in _GENERIC_NAMES and folder else path.name


def has_sentence(text: str) -> bool:
    """Return whether a generated text can be a sentence: it has at least eight different letters.

    A model that was trained on single answers repeats them instead ("yes no yes 1 yes").
    """
    return len({letter for letter in text.lower() if letter.isalpha()}) >= 8


def assess_visible(
    scene: Scene,
    people: Sequence[Track],
    assess: Callable[[Sequence[Track]], Iterable[Assessment]],
) -> list[Assessment]:
    """Return one assessment per person, in order; people outside the image get a reason.

    Args:
        scene: The scene of the people.
        people: The people to assess.
        assess: Assesses people whose box overlaps the image; called only if there are any.
    """
    width, height = scene.frame.width, scene.frame.height
    visible = [p for p in people if p.box.clipped(width, height).area > 0]
    assessments = {a.person_id: a for a in assess(visible)} if visible else {}
    return [
        assessments.get(p.person_id)
        or Assessment(p.person_id, scene.frame.stamp_ns, None, reason="outside the image")
        for p in people
    ]


def grey_scene(people: int = 1) -> Scene:
    """Return a grey scene with people in the same place, for warming up."""
    image = np.full((480, 640, 3), 128, np.uint8)
    box = Box(160, 80, 480, 480)
    tracks = (Track(f"p{number:05d}", box, 1.0) for number in range(people))
    return Scene(Frame(image, 0, ""), tuple(tracks))


def pad_to_square(image: ImageArray, colour: Sequence[int]) -> ImageArray:
    """Return the image centred on a square, so that a centre crop cuts nothing off."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    borders = (top, side - height - top, left, side - width - left)
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=colour)  # type: ignore[return-value]
