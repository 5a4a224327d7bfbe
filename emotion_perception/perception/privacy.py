"""Make faces unrecognisable in images that people may see: debug images, reports, recordings."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Frame, ImageArray
from emotion_perception.perception.detection import FaceFinder

_CELLS = 5  # across the shorter side of a blurred rectangle: eyes and mouth share cells
_MARGIN = 0.2  # of a face's size, on each side: hairline, chin and ears
_HEAD_SHARE = 1 / 3  # of the box of a person, from the top


class FaceBlur:
    """Makes frames that people may see; without `privacy.blur_faces` they stay as they are."""

    def __init__(self, settings: Settings) -> None:
        """Load MTCNN to find faces, where facenet-pytorch is installed.

        Raises:
            ModelError: the device of the detector does not exist.
        """
        self.is_on = settings.privacy.blur_faces
        finds_faces = self.is_on and importlib.util.find_spec("facenet_pytorch") is not None
        device = getattr(settings.detector, "device", "auto")
        self._finder = FaceFinder(device) if finds_faces else None

    def frame(self, frame: Frame, people: Sequence[Box]) -> Frame:
        """Return a frame without recognisable faces, given the boxes of the people in it."""
        if not self.is_on:
            return frame
        corners = self._finder.find(frame.image).corners.tolist() if self._finder else []
        return replace(frame, image=blur_faces(frame.image, people, [Box(*c) for c in corners]))

    def face(self, crop: Frame) -> Frame:
        """Return the crop of a face without recognisable features."""
        return replace(crop, image=_mosaic(crop.image)) if self.is_on else crop


def blur_faces(image: ImageArray, people: Sequence[Box], faces: Sequence[Box]) -> ImageArray:
    """Return a copy of an image in which faces are a mosaic of at least 5 x 5 cells.

    Each face is blurred. A person without a face of their own, who may be turned away or small,
    loses the upper third of the box instead; the head of a person who lies down may be elsewhere.

    Args:
        image: (H, W, 3).
        people: The boxes of the people.
        faces: The boxes of the faces, from hairline to chin.
    """
    image = np.ascontiguousarray(image).copy()
    regions = []
    faceless = list(people)
    for face in faces:
        wide, high = face.width * _MARGIN, face.height * _MARGIN
        regions.append(
            Box(face.left - wide, face.top - high, face.right + wide, face.bottom + high)
        )
        x, y = (face.left + face.right) / 2, (face.top + face.bottom) / 2
        around = [b for b in faceless if b.left <= x < b.right and b.top <= y < b.bottom]
        if around:  # of people behind each other, the face may be that of the smaller one
            faceless.remove(min(around, key=lambda box: box.area))
    for box in faceless:
        regions.append(box._replace(bottom=box.top + box.height * _HEAD_SHARE))
    height, width = image.shape[:2]
    for region in regions:
        if region.clipped(width, height).area > 0:
            rows, columns = region.pixels(width, height)
            image[rows, columns] = _mosaic(image[rows, columns])
    return image


def _mosaic(image: ImageArray) -> ImageArray:
    height, width = image.shape[:2]
    cell = max(min(height, width) / _CELLS, 1.0)
    size = (max(round(width / cell), 1), max(round(height / cell), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
