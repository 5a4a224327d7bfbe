"""Boxes and labels on a picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.values import Estimate, Frame, PeopleEstimate, Status

# Okabe and Ito's palette, told apart by colour-blind readers too.
_COLOURS = {
    Status.PENDING: (153, 153, 153),
    Status.ASSESSED: (0, 158, 115),
    Status.ABSTAINED: (230, 159, 0),
    Status.EXPIRED: (204, 121, 167),
}
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw(frame: Frame, people: PeopleEstimate) -> npt.NDArray[np.uint8]:
    """A copy of the frame's picture with everybody's box, id, and label or status."""
    image = np.ascontiguousarray(frame.image).copy()
    unit = max(frame.height / 720, 0.5)
    for estimate in people.people:
        _person(image, estimate, unit)
    return image


def _person(image: npt.NDArray[np.uint8], estimate: Estimate, unit: float) -> None:
    colour = _COLOURS[estimate.status]
    box = estimate.track.box
    corner = (round(box.left), round(box.top))
    thickness = max(round(2 * unit), 1)
    cv2.rectangle(image, corner, (round(box.right), round(box.bottom)), colour, thickness)
    if estimate.status is Status.ASSESSED:
        text = f"{estimate.track.person_id} {estimate.label} {estimate.confidence:.2f}"
    else:
        text = f"{estimate.track.person_id} {estimate.reason or estimate.status.name.lower()}"
    size = 0.6 * unit
    (width, height), below = cv2.getTextSize(text, _FONT, size, thickness)
    left = min(max(corner[0], 0), max(image.shape[1] - width, 0))
    bottom = max(corner[1], height + 2 * below)
    top_left = (left, bottom - height - 2 * below)
    cv2.rectangle(image, top_left, (left + width, bottom), colour, cv2.FILLED)
    cv2.putText(
        image, text, (left, bottom - below), _FONT, size, (255, 255, 255), thickness, cv2.LINE_AA
    )
