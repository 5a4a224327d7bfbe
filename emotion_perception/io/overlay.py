"""Draw boxes and labels of people on an image."""

from __future__ import annotations

import cv2
import numpy as np

from emotion_perception.core.text import printable
from emotion_perception.core.values import Estimate, Frame, ImageArray, PeopleEstimate, Status

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
STATUS_COLOURS = {
    Status.PENDING: (153, 153, 153),
    Status.ASSESSED: (0, 158, 115),
    Status.ABSTAINED: (230, 159, 0),
    Status.EXPIRED: (204, 121, 167),
}
_MAX_CAPTION = 100
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def caption(estimate: Estimate) -> str:
    """Return the person's id with the label and its confidence, or the reason why there is none."""
    if estimate.status is Status.ASSESSED:
        state = f"{estimate.label} {estimate.confidence:.2f}"
    else:
        state = estimate.reason or estimate.status.name.lower()
    return printable(f"{estimate.track.person_id} {state}", _MAX_CAPTION)


def draw_overlay(frame: Frame, people: PeopleEstimate) -> ImageArray:
    """Return a copy of the image with the box, id, and label or status of each person."""
    image = np.ascontiguousarray(frame.image).copy()
    unit = max(min(frame.height, frame.width) / 720, 0.6)
    for estimate in people.people:
        left, top, right, bottom = map(round, estimate.track.box)
        colour = STATUS_COLOURS[estimate.status]
        cv2.rectangle(image, (left, top), (right, bottom), colour, max(round(2 * unit), 1))
    taken: list[tuple[int, int, int, int]] = []
    for estimate in people.people:
        taken.append(_label(image, estimate, unit, taken))
    return image


def _label(
    image: ImageArray,
    estimate: Estimate,
    unit: float,
    taken: list[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Draw a label above the box, clear of other labels, and return its rectangle.

    Args:
        image: The image to draw on.
        estimate: The person.
        unit: Scale of text and lines.
        taken: Left, top, right and bottom of the labels that are drawn already.
    """
    text = caption(estimate)
    size, thickness = 0.55 * unit, max(round(1.2 * unit), 1)
    (width, height), below = cv2.getTextSize(text, _FONT, size, thickness)
    height += 2 * below
    left = min(max(round(estimate.track.box.left), 0), max(image.shape[1] - width, 0))
    bottom = max(round(estimate.track.box.top), height)
    for l, t, r, b in sorted(taken, key=lambda place: -place[3]):  # noqa: E741
        if left < r and l < left + width and bottom - height < b and t < bottom:
            bottom = max(t, height)
    place = (left, bottom - height, left + width, bottom)
    cv2.rectangle(image, place[:2], place[2:], STATUS_COLOURS[estimate.status], cv2.FILLED)
    at = (left, bottom - below)
    cv2.putText(image, text, at, _FONT, size, (255, 255, 255), thickness, cv2.LINE_AA)
    return place
