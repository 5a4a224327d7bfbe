"""Run a recognizer of your own through the pipeline, on a drawn clip of the toy world.

    python3 examples/own_recognizer.py

The detector is the small YOLO of the toy world; run it in the root of a clone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Assessment, Scene, Track
from emotion_perception.perception.detection import make_detector
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.recognizers.base import assess_visible


class SizeRecognizer:
    """Take people who are close for engaged: a recognizer without a model."""

    name = "size"
    labels = EMOTIC_LABELS
    calibration = ""
    thresholds = np.full(len(EMOTIC_LABELS), 0.5)

    def warm_up(self) -> None:
        """Do nothing, because this recognizer has no model."""

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Score "engagement" by the height of the person in the frame."""

        def assess_inside(visible: Sequence[Track]) -> list[Assessment]:
            assessments = []
            for person in visible:
                scores = np.full(len(self.labels), 0.1)
                share = person.box.clipped(scene.frame.width, scene.frame.height).height
                scores[self.labels.index("engagement")] = share / scene.frame.height
                stamp_ns = scene.frame.stamp_ns
                assessments.append(Assessment(person.person_id, stamp_ns, scores))
            return assessments

        return assess_visible(scene, people, assess_inside)

    def close(self) -> None:
        """Do nothing: there is no memory to free."""


def main() -> None:
    """Print the estimates of each second of a clip."""
    settings = Settings.from_dict(toy_world.SETTINGS)
    recognizer = SizeRecognizer()
    pipeline = Pipeline(make_detector(settings.detector), recognizer, settings)
    for number, drawn in enumerate(toy_world.draw_clip(8, 4.0)):
        people = pipeline.on_frame(drawn.scene().frame)
        if (due := pipeline.next_round()) is not None:
            people = pipeline.on_assessments(recognizer.assess(due.scene, due.people))
        if number % 10 == 9:
            states = (
                f"{e.track.person_id} {e.status.name} {e.label or e.reason}" for e in people.people
            )
            print(f"{people.stamp_ns / 1e9:.1f} s:", "; ".join(states))


if __name__ == "__main__":
    main()
