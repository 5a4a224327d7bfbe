"""The interfaces of the pipeline: detector, recognizer and explainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from emotion_perception.core.values import Assessment, Detections, FloatArray, Frame, Scene, Track


class Detector(Protocol):
    """Detect people in single frames; the tracker connects them over time."""

    def detect(self, frame: Frame) -> Detections:
        """Return the people in one frame, in pixels of that frame; empty if there are none."""
        ...

    def close(self) -> None:
        """Free the memory of the model. The detector cannot be used afterwards."""
        ...


class Recognizer(Protocol):
    """Assess people. All systems implement this interface, and so do the fakes of the tests."""

    name: str
    """System and model, as published in the messages."""
    labels: tuple[str, ...]
    """The labels that it can give."""
    thresholds: FloatArray
    """(L,) probabilities; a label above its threshold counts as present."""
    calibration: str
    """The name of the calibration of the scores; empty: none."""

    def warm_up(self) -> None:
        """Pay the costs of the first call now."""
        ...

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Assess these people of a scene; return one assessment per person, in order.

        It is called from one thread at a time and is a pure function of its arguments.

        Raises:
            RecognizerError: this round has no assessment.
        """
        ...

    def close(self) -> None:
        """Free the memory of the model. The recognizer cannot be used afterwards."""
        ...


@runtime_checkable
class Explainer(Protocol):
    """A recognizer that can also explain in words."""

    def explain(self, scene: Scene, person: Track) -> str:
        """Return a short reason, in words, why the person appears to feel as assessed.

        People read it; no score comes from it. It is called from the thread of `assess`.

        Raises:
            RecognizerError: there is no reason this time.
        """
        ...
