"""Fake detectors and recognizers for tests of this package and of packages built on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from emotion_perception.core.values import (
    Assessment,
    Box,
    Detections,
    FloatArray,
    Frame,
    Scene,
    Track,
)

SECOND_NS = 10**9


def noise_image(width: int = 320, height: int = 240, seed: int = 0) -> np.ndarray:
    """Return a sharp image of random pixels, (height, width, 3) uint8 RGB."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def frame_at(seconds: float, image: np.ndarray | None = None, camera: str = "camera") -> Frame:
    """Return a frame with a stamp of `seconds` after the epoch."""
    return Frame(noise_image() if image is None else image, round(seconds * SECOND_NS), camera)


class ScriptedDetector:
    """Detect fixed boxes, or those of a function of the stamp in seconds."""

    def __init__(self, script: Sequence[Box] | Callable[[float], Sequence[Box]]) -> None:
        self._script = script if callable(script) else lambda _: script
        self.closed = False

    def detect(self, frame: Frame) -> Detections:
        """Return the boxes for this frame, each with confidence 0.9."""
        boxes = self._script(frame.stamp_ns / SECOND_NS)
        return Detections.from_lists(boxes, [0.9] * len(boxes))

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True


class FakeRecognizer:
    """Score each person with a function and record the calls of `assess`."""

    name = "function"
    calibration = ""

    def __init__(
        self,
        score: Callable[[Track], Sequence[float]] = lambda person: (0.9, 0.2),
        labels: Sequence[str] = ("happiness", "sadness"),
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.thresholds: FloatArray = np.asarray(thresholds or [0.5] * len(labels))
        self._score = score
        self.requests: list[tuple[int, tuple[str, ...]]] = []
        """Stamp and person ids of each call of `assess`."""
        self.closed = False

    def warm_up(self) -> None:
        """Do nothing."""

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return one assessment per person and record the call."""
        stamp_ns = scene.frame.stamp_ns
        self.requests.append((stamp_ns, tuple(person.person_id for person in people)))
        return [
            Assessment(person.person_id, stamp_ns, np.asarray(self._score(person), np.float32))
            for person in people
        ]

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True


class BlockingRecognizer(FakeRecognizer):
    """A `FakeRecognizer` whose `assess` blocks until `release` is called, once per call."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        """Acquire it to wait until `assess` is called."""
        self._released = threading.Semaphore(0)

    def release(self) -> None:
        """Let the blocked call of `assess`, or the next one, return."""
        self._released.release()

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return one assessment per person after a call of `release`."""
        answer = super().assess(scene, people)
        self.entered.release()
        if not self._released.acquire(timeout=60):
            raise TimeoutError("the recognizer was not released within 60 s")
        return answer
