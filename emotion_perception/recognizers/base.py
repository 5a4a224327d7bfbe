"""Helpers of all recognizers that do not depend on a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from emotion_perception.core.values import Assessment, Box, Frame, ImageArray, Scene, Track


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


def grey_scene() -> Scene:
    """Return a grey scene with one person, for warming up."""
    image = np.full((480, 640, 3), 128, np.uint8)
    return Scene(Frame(image, 0, ""), (Track("p00000", Box(160, 80, 480, 480), 1.0),))


def pad_to_square(image: ImageArray, colour: Sequence[int]) -> ImageArray:
    """Return the image centred on a square, so that a centre crop cuts nothing off."""
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    borders = (top, side - height - top, left, side - width - left)
    return cv2.copyMakeBorder(image, *borders, cv2.BORDER_CONSTANT, value=colour)  # type: ignore[return-value]
