"""What a detector and a recognizer promise: the seams of the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from emotion_perception.core.values import Assessment, Detections, FloatArray, Frame, Scene, Track


class Detector(Protocol):
    """Where people are. Who they are over time is the tracker's business."""

    def detect(self, frame: Frame) -> Detections:
        """The people in one frame, in pixels of that frame; nobody is an empty `Detections`."""
        ...

    def close(self) -> None:
        """Give back the memory of the model. The detector cannot be used afterwards."""
        ...


class Recognizer(Protocol):
    """What judges people. Every system is one of these, the fake ones of the tests included."""

    name: str
    """Which system with which model, as published in the messages."""
    labels: tuple[str, ...]
    """What it can tell; it invents no others."""
    thresholds: FloatArray
    """(L,) probabilities: above its own, a label counts as present."""
    calibration: str
    """Which calibration the scores went through; empty: none."""

    def warm_up(self) -> None:
        """Pay the one-time costs now, so that the first person does not."""
        ...

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Judge these people of this scene, one answer each, in their order.

        Called from one thread at a time. A pure function of its arguments.

        Raises:
            RecognizerError: there is no answer this time.
        """
        ...

    def close(self) -> None:
        """Give back the memory of the model. The recognizer cannot be used afterwards."""
        ...


@runtime_checkable
class Explainer(Protocol):
    """A recognizer that can also talk."""

    def explain(self, scene: Scene, person: Track) -> str:
        """A short reason, in words, why this person seems to feel as they do.

        For people to read; no score comes from it. Called from the thread of `assess`.

        Raises:
            RecognizerError: there is no answer this time.
        """
        ...
