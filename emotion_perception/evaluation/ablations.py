"""Parts of a scene, to find out what each of them tells: the person, or what is around them.

What is left out is grey. Evaluation asks any system with less than it could see, and training
learns from such pictures, too, so that a model is not surprised by them.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import Frame, Scene, Track

BoolArray = npt.NDArray[np.bool_]

WHOLE = "scene+person"
INPUTS = {
    WHOLE: "everything",
    "person": "grey around the person",
    "scene": "grey instead of the person",
    "text": "all grey: what the system says without looking",
    "swap": "the person in front of another picture",
}

GREY = 128


def show_only(
    scene: Scene,
    person: Track,
    part: str,
    other: Frame | None = None,
    mask: BoolArray | None = None,
) -> Scene:
    """A scene with this person alone in its list, of which only a part can be seen.

    Args:
        part: one of `INPUTS`.
        other: for "swap" the picture that takes the place of everything around the person; it is
            stretched to the size of the scene.
        mask: (H, W), which pixels show the person; without one everything in the box does. Where
            the person is left out the whole box is, since a silhouette would tell the posture.

    Raises:
        ValueError: there is no such part, "swap" lacks its picture, or the person is outside.
    """
    if part not in INPUTS:
        raise ValueError(f"there is no input {part!r}: choose one of {', '.join(INPUTS)}")
    frame = scene.frame
    if part == WHOLE:
        return Scene(frame, (person,))
    inside = person.box.pixels(frame.width, frame.height)
    if mask is not None and mask.shape != frame.image.shape[:2]:
        raise ValueError(f"the mask has the shape {mask.shape}, the picture {frame.image.shape}")
    if part == "scene":
        image = frame.image.copy()
        image[inside] = GREY
    else:
        if part != "swap":
            image = np.full_like(frame.image, GREY)
        elif other is not None:
            image = cv2.resize(other.image, (frame.width, frame.height)).astype(np.uint8)
        else:
            raise ValueError("the input swap needs another picture to put the person into")
        if part != "text":
            shown = inside if mask is None else mask
            image[shown] = frame.image[shown]
    return Scene(Frame(image, frame.stamp_ns, frame.camera), (person,))
