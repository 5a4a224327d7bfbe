"""Measure what `scheduler.refresh_still` saves on drawn clips, and what it costs.

Each clip is replayed with the option off and on, with the same detections. The recognizer is a
stand-in: what counts is who is asked about when, not what the model answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from emotion_perception import toy_world
from emotion_perception.benchmarks.report import machine
from emotion_perception.core.interfaces import Detector
from emotion_perception.core.schema import Value
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Assessment, Detections, Frame, Scene, Status, Track
from emotion_perception.evaluation.tracking_metrics import iou
from emotion_perception.io.bags import RecordedImage
from emotion_perception.perception.detection import make_detector
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.replay.simulator import Emission, Latency, Simulator
from emotion_perception.testing.fakes import FakeRecognizer
from emotion_perception.toy_world import DrawnImage

LATENCY = Latency(((1, 0.3), (4, 0.6)), image=0.03)
"""Seconds of a round of one and of four people, and of an image."""
REFRESH_STILL = 4.0
STILL_CLIPS, MOVING_CLIPS = (range(8), 40.0), (range(10), 12.0)
"""Seeds, and seconds of each clip."""

_SETTLED_NS = 2_000_000_000
"""A still stretch begins so long after the start, and after a change."""
_POSTURE_NS = 300_000_000
"""How long a change of posture takes in a clip."""
_SAME_PERSON = 0.5  # overlap (IoU) of a track and a drawn person

Change = tuple[int, int, int]
"""Number of the clip, number of the person and stamp of the first frame."""


@dataclass(slots=True)
class Figures:
    """What happened in some clips. Questions are counted per person."""

    questions: int = 0
    still_questions: int = 0
    """Those in still stretches."""
    expired: int = 0
    """How often an estimate that was ASSESSED became EXPIRED."""
    reactions_s: dict[Change, float] = field(default_factory=dict)
    """From a change of face or posture to the first message with an assessment of a frame that
    shows all of it; changes of people who leave or change again before are left out."""


def measure(report: Callable[[str], None]) -> dict[str, Any]:
    """Measure clips of still people and of moving people, ready for JSON.

    Args:
        report: Called with what is measured now.
    """
    yolo = make_detector(Settings.from_dict(toy_world.SETTINGS).detector)
    cases = []
    for name, (seeds, seconds), draw in (
        ("still people", STILL_CLIPS, toy_world.draw_still_clip),
        ("moving people", MOVING_CLIPS, toy_world.draw_clip),
    ):
        off, on = Figures(), Figures()
        for seed in seeds:
            report(f"{name}, clip {seed}")
            compare(list(draw(seed, seconds)), seed, yolo, off, on)
        cases.append({"clips": name, "number": len(seeds), **_summary(off, on)})
    return {"machine": machine("cpu"), "cases": cases}


def compare(
    clip: Sequence[DrawnImage], number: int, detector: Detector, off: Figures, on: Figures
) -> None:
    """Add the figures of a clip without and with the option."""
    once = _DetectOnce(detector)
    for refresh_still, figures in ((0.0, off), (REFRESH_STILL, on)):
        settings: dict[str, Value] = {"scheduler.refresh_still": refresh_still}
        recognizer = _Recognizer()
        pipeline = Pipeline(once, recognizer, Settings.from_dict(settings))
        images = (
            RecordedImage(x.stamp_ns, Frame(x.image, x.stamp_ns, "world"), None) for x in clip
        )
        emissions = list(Simulator(pipeline, recognizer, LATENCY).run(images))
        _add(figures, clip, number, emissions, recognizer.asked_ns)


class _DetectOnce:
    """Remembers the detections of another detector, so that each frame is detected once."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._by_stamp: dict[int, Detections] = {}

    def detect(self, frame: Frame) -> Detections:
        if frame.stamp_ns not in self._by_stamp:
            self._by_stamp[frame.stamp_ns] = self._detector.detect(frame)
        return self._by_stamp[frame.stamp_ns]

    def close(self) -> None:
        self._detector.close()


class _Recognizer(FakeRecognizer):
    """Records the stamp of each question."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_ns: list[int] = []

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        self.asked_ns += [scene.frame.stamp_ns] * len(people)
        return super().assess(scene, people)


def _add(
    figures: Figures,
    clip: Sequence[DrawnImage],
    number: int,
    emissions: Sequence[Emission],
    asked_ns: Sequence[int],
) -> None:
    changes = list(_changes(clip))
    busy = [0, *(at_ns for _, at_ns, _ in changes)]
    figures.questions += len(asked_ns)
    figures.still_questions += sum(
        not any(0 <= stamp_ns - since_ns < _SETTLED_NS for since_ns in busy)
        for stamp_ns in asked_ns
    )
    figures.expired += _expiries(emissions)
    drawn = {x.stamp_ns: {p.number: p for p in x.people} for x in clip}
    for person, at_ns, shown_ns in changes:
        since_ns = drawn[at_ns][person].since_ns
        for emission in emissions:
            if emission.people.stamp_ns < at_ns:
                continue
            now = drawn[emission.people.stamp_ns].get(person)
            if now is None or now.since_ns != since_ns:
                break
            estimates = [
                estimate
                for estimate in emission.people.people
                if iou(estimate.track.box, now.box) >= _SAME_PERSON
            ]
            if any(estimate.assessed_ns >= shown_ns for estimate in estimates):
                seconds = (emission.time_ns - at_ns) / 1e9
                figures.reactions_s[number, person, at_ns] = seconds
                break


def _changes(clip: Sequence[DrawnImage]) -> Iterator[tuple[int, int, int]]:
    """Yield person, stamp of the first frame, and of the first that shows all of a change."""
    before: dict[int, toy_world.Person] = {}
    for drawn in clip:
        for person in drawn.people:
            old = before.get(person.number)
            if old and (old.face, old.posture) != (person.face, person.posture):
                takes_ns = _POSTURE_NS if old.posture != person.posture else 0
                yield person.number, drawn.stamp_ns, drawn.stamp_ns + takes_ns
            before[person.number] = person


def _expiries(emissions: Sequence[Emission]) -> int:
    count, status = 0, dict[str, Status]()
    for emission in emissions:
        for estimate in emission.people.people:
            before = status.get(estimate.track.person_id)
            count += before is Status.ASSESSED and estimate.status is Status.EXPIRED
            status[estimate.track.person_id] = estimate.status
    return count


def _summary(off: Figures, on: Figures) -> dict[str, Any]:
    both = off.reactions_s.keys() & on.reactions_s.keys()
    later = [on.reactions_s[change] - off.reactions_s[change] for change in both]
    return {
        "largest_delay_seconds": round(max(later, default=0.0), 2),
        "rows": [
            {
                "refresh_still": refresh_still,
                "questions": figures.questions,
                "still_questions": figures.still_questions,
                "expired": figures.expired,
                "reactions": len(figures.reactions_s),
                "mean_reaction_seconds": round(
                    sum(figures.reactions_s.values()) / max(len(figures.reactions_s), 1), 2
                ),
                "max_reaction_seconds": round(max(figures.reactions_s.values(), default=0.0), 2),
            }
            for refresh_still, figures in ((0.0, off), (REFRESH_STILL, on))
        ],
    }
