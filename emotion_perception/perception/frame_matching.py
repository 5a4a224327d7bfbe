"""Match images with the boxes that another node found in them, by their stamps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from emotion_perception.core.values import Detections, FloatArray, Frame

_KEPT = 30  # images, and as many messages with boxes
_SET_BACK_NS = 10**9  # an earlier stamp is late; one that is earlier by more, of a clock set back


@dataclass(frozen=True, slots=True, eq=False)
class SourceBoxes:
    """The people whom another node found in one image."""

    stamp_ns: int
    corners: FloatArray
    """(N, 4): left, top, right, bottom in pixels, or in shares of the image if `normalised`."""
    confidence: FloatArray
    """(N,), 0..1."""
    ids: tuple[str, ...]
    """N ids of the source; empty where it gives none."""
    normalised: bool = False

    def detections(self, frame: Frame, with_ids: bool) -> Detections:
        """Return the boxes in pixels of the frame."""
        width, height = (frame.width, frame.height) if self.normalised else (1, 1)
        scale = np.asarray([width, height, width, height], np.float32)
        corners = np.asarray(self.corners, np.float32).reshape(-1, 4) * scale
        confidence = np.asarray(self.confidence, np.float32)
        return Detections(corners, confidence, ids=self.ids if with_ids else None)


class Match(NamedTuple):
    """An image and the boxes in it."""

    image: Any
    boxes: SourceBoxes
    held_s: float
    """Seconds for which the image waited for the boxes."""


class FrameMatcher:
    """Holds images until their boxes arrive, at most `wait_s` seconds, and the other way round."""

    def __init__(
        self, tolerance_s: float, wait_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start without images and boxes.

        Args:
            tolerance_s: Largest difference of the stamps of an image and its boxes.
            wait_s: Seconds after which an image is dropped.
            clock: Returns the seconds by which that is judged.
        """
        self._tolerance_ns = round(tolerance_s * 1e9)
        self._wait_s, self._clock = wait_s, clock
        self._images: deque[tuple[int, float, Any]] = deque()
        self._boxes: deque[SourceBoxes] = deque(maxlen=_KEPT)
        self._newest_ns = 0
        self._dropped_ns: int | None = None
        self.dropped = 0
        """Number of images whose boxes did not arrive in time."""
        self.late = False
        """Whether boxes arrived for an image that was dropped before."""

    def add_image(self, stamp_ns: int, image: Any) -> Match | None:
        """Take an image; return it if its boxes have arrived before it."""
        now = self._clock()
        while self._images and now - self._images[0][1] > self._wait_s:
            self._drop()
        if self._newest_ns - stamp_ns > _SET_BACK_NS:
            self.clear()
        self._newest_ns = stamp_ns
        self._images.append((stamp_ns, now, image))
        if len(self._images) > _KEPT:
            self._drop()
        near = [b for b in self._boxes if abs(b.stamp_ns - stamp_ns) <= self._tolerance_ns]
        if not near:
            return None
        return self._match(
            len(self._images) - 1, min(near, key=lambda b: abs(b.stamp_ns - stamp_ns))
        )

    def add_boxes(self, boxes: SourceBoxes) -> Match | None:
        """Take boxes; return the image that waited for them.

        Images before it are dropped without being counted: the source left them out.
        """
        differences = [abs(stamp_ns - boxes.stamp_ns) for stamp_ns, _, _ in self._images]
        if differences and min(differences) <= self._tolerance_ns:
            return self._match(int(np.argmin(differences)), boxes)
        is_late = self._dropped_ns is not None and (
            boxes.stamp_ns <= self._dropped_ns + self._tolerance_ns
        )
        self.late = self.late or is_late
        if not is_late:
            self._boxes.append(boxes)
        return None

    def clear(self) -> None:
        """Drop all images and boxes without counting them."""
        self._images.clear()
        self._boxes.clear()
        self._dropped_ns = None

    def _match(self, index: int, boxes: SourceBoxes) -> Match:
        _, arrived, image = self._images[index]
        for _ in range(index + 1):
            self._images.popleft()
        newer = [b for b in self._boxes if b.stamp_ns > boxes.stamp_ns]
        self._boxes = deque(newer, maxlen=_KEPT)
        self.late = False
        return Match(image, boxes, self._clock() - arrived)

    def _drop(self) -> None:
        self._dropped_ns = self._images.popleft()[0]
        self.dropped += 1
