"""Ablations: show a recognizer only a part of a scene, to measure what that part contributes.

Hidden pixels are grey. Evaluation applies ablations to any system. Training applies them to a share
of its images, so that the model has seen grey areas before.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import Frame, Scene, Track
from emotion_perception.evaluation.systems import ABLATIONS, FULL_INPUT

BoolArray = npt.NDArray[np.bool_]

GREY = 128


def ablate(
    scene: Scene,
    person: Track,
    ablation: str,
    background: Frame | None = None,
    mask: BoolArray | None = None,
) -> Scene:
    """Return a scene that lists only one person and shows only a part of the image.

    Args:
        scene: The complete scene.
        person: The person to keep in the list of the scene.
        ablation: A name in `systems.ABLATIONS`.
        background: For "swap": the frame that replaces the surroundings of the person. It is
            resized to the size of the scene.
        mask: (H, W), True where a pixel shows the person. Default: the whole box. Where the person
            is hidden, the whole box is hidden, because a silhouette would reveal the posture.

    Raises:
        ValueError: The ablation does not exist, "swap" has no background, the mask has another size
            than the image, or the person is outside the image.
    """
    if ablation not in ABLATIONS:
        raise ValueError(
            f"cannot apply ablation {ablation!r}: it does not exist; choose one of "
            f"{', '.join(ABLATIONS)}"
        )
    frame = scene.frame
    if ablation == FULL_INPUT:
        return Scene(frame, (person,))
    box = person.box.pixels(frame.width, frame.height)
    if mask is not None and mask.shape != frame.image.shape[:2]:
        raise ValueError(
            f"cannot apply a mask of shape {mask.shape} to an image of shape {frame.image.shape}; "
            "make both the same size"
        )
    if ablation == "scene":
        image = frame.image.copy()
        image[box] = GREY
    else:
        if ablation != "swap":
            image = np.full_like(frame.image, GREY)
        elif background is not None:
            image = cv2.resize(background.image, (frame.width, frame.height)).astype(np.uint8)
        else:
            raise ValueError("cannot swap the background: pass another frame as `background`")
        if ablation != "text":
            visible = box if mask is None else mask
            image[visible] = frame.image[visible]
    return Scene(Frame(image, frame.stamp_ns, frame.camera), (person,))
