"""The machine: a frame at t, an answer at t + latency, and what is held to be true after each.

    frame ─► detector ─► tracker ─► Scene ─► estimates.at(scene) ─► PeopleEstimate
                                      │            ▲
            worker idle? scheduler.pick            │ estimates.update(answer)
                                      ▼            │
                        recognizer.assess(scene, people)

Nothing here waits, sleeps or starts a thread. The node calls `assess` on a worker thread and
brings the answer back to its own; a replay calls it in line and delivers the answer after a
latency of its choice. Both get the same estimates from the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from emotion_perception.estimates import Estimates
from emotion_perception.scheduling import Scheduler
from emotion_perception.settings import Settings
from emotion_perception.tracking import Tracker
from emotion_perception.values import (
    Assessment,
    Boxes,
    FloatArray,
    Frame,
    PeopleEstimate,
    Scene,
    Track,
)
from emotion_perception.visibility import why_not_visible


class Detector(Protocol):
    """Where people are. Who they are over time is the tracker's business."""

    def detect(self, frame: Frame) -> Boxes:
        """The people in one frame, in pixels of that frame; nobody is an empty `Boxes`."""
        ...

    def close(self) -> None:
        """Give back the memory of the model. The detector cannot be used afterwards."""
        ...


class RecognizerError(Exception):
    """This round has no answer, the next one may: nothing is lost but time."""


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


def of_visible(
    scene: Scene,
    people: Sequence[Track],
    judge: Callable[[Sequence[Track]], Iterable[Assessment]],
) -> list[Assessment]:
    """The answers of `assess`, in the order of the people, from a judge of some of them.

    Args:
        judge: answers for people whose box touches the picture; is not called for nobody. The
            others get a reason instead of scores.
    """
    width, height = scene.frame.width, scene.frame.height
    visible = [p for p in people if p.box.clipped(width, height).area > 0]
    answers = {answer.person_id: answer for answer in judge(visible)} if visible else {}
    return [
        answers.get(p.person_id)
        or Assessment(p.person_id, scene.frame.stamp_ns, None, reason="outside the picture")
        for p in people
    ]


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


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What the recognizer is to be asked next."""

    scene: Scene
    people: tuple[Track, ...]


class Perception:
    """Events in, estimates out. Owned by one thread."""

    def __init__(
        self, detector: Detector, recognizer: Recognizer, settings: Settings, counted: int = 0
    ) -> None:
        """
        Args:
            counted: people who got an id before, so that none is used twice.
        """
        self.settings = settings
        self._detector = detector
        self._model = recognizer.name
        self._calibration = recognizer.calibration
        self._tracker = Tracker(settings.tracker, settings.detector.confidence, counted)
        self._scheduler = Scheduler()
        self._estimates = Estimates(recognizer.labels, recognizer.thresholds)
        self._scene: Scene | None = None
        self._visible: tuple[Track, ...] = ()
        self._beat_ns = 0
        """When the newest frame was due, given `max_rate`; near its stamp."""

    @property
    def counted(self) -> int:
        """How many people got an id so far."""
        return self._tracker.counted

    @property
    def scene(self) -> Scene | None:
        """The newest frame with the people in it; None before the first."""
        return self._scene

    def wants(self, stamp_ns: int) -> bool:
        """Whether a frame of that time is to be looked at: a new one, and not above `max_rate`."""
        if self._scene is None:
            return True
        newest_ns = self._scene.frame.stamp_ns
        due = stamp_ns > newest_ns and stamp_ns >= self._beat_ns + self._period_ns
        return due or stamp_ns < newest_ns

    def on_frame(self, frame: Frame) -> PeopleEstimate:
        """Detect and track; the frame is the newest scene from now on.

        A stamp before the newest one means that the clock was set back (a bag restarted):
        everybody is forgotten, since no age could be told any more.
        """
        if self._scene is not None and frame.stamp_ns < self._scene.frame.stamp_ns:
            self.reset()
        people = self._tracker.update(self._detector.detect(frame), frame.stamp_ns)
        self._scene = Scene(frame, people)
        # A camera that jitters keeps the beat; one that pauses starts a new one.
        next_beat_ns = self._beat_ns + self._period_ns
        on_beat = 0 <= frame.stamp_ns - next_beat_ns < self._period_ns
        self._beat_ns = next_beat_ns if on_beat else frame.stamp_ns
        self._estimates.keep(self._tracker.known)
        self._scheduler.keep(self._tracker.known)
        self._visible = tuple(person for person in people if self._is_visible(person, frame))
        return self.now()

    def next_question(self) -> Question | None:
        """Whom to ask about now that the recognizer is idle, in the newest scene; None: nobody."""
        if self._scene is None:
            return None
        stamp_ns, limits = self._scene.frame.stamp_ns, self.settings.scheduler
        due = self._scheduler.due(self._visible, stamp_ns, limits.refresh)[: limits.max_people]
        if not due:
            return None
        self._scheduler.asked(due, stamp_ns)
        return Question(self._scene, tuple(due))

    def on_answer(self, answer: Sequence[Assessment]) -> PeopleEstimate:
        """Take in an answer; the newest scene is to be published again."""
        self._estimates.update(answer, self.settings.smoothing)
        return self.now()

    def on_failure(self, question: Question) -> None:
        """There is no answer to this question: whoever it was about is due again."""
        self._scheduler.failed(question.people)

    def now(self) -> PeopleEstimate:
        """What is held about everybody in the newest scene."""
        if self._scene is None:
            raise RuntimeError("no frame was seen yet: call on_frame first")
        frame = self._scene.frame
        return PeopleEstimate(
            stamp_ns=frame.stamp_ns,
            camera=frame.camera,
            width=frame.width,
            height=frame.height,
            model=self._model,
            calibration=self._calibration,
            labels=self._estimates.labels,
            people=tuple(
                self._estimates.at(person, frame.stamp_ns, self.settings.max_age)
                for person in self._scene.people
            ),
        )

    def reset(self) -> None:
        """Forget everybody; ids go on counting, so that none is used twice."""
        self._scene, self._visible, self._beat_ns = None, (), 0
        self._tracker.reset()
        self._estimates.keep(())
        self._scheduler.keep(())

    @property
    def _period_ns(self) -> int:
        rate = self.settings.max_rate
        return round(1e9 / rate) if rate else 0

    def _is_visible(self, person: Track, frame: Frame) -> bool:
        """Whether somebody can be judged; if not, that is what is held about them."""
        reason = why_not_visible(frame, person.box, self.settings.visibility)
        if reason:
            answer = Assessment(person.person_id, frame.stamp_ns, None, reason=reason)
            self._estimates.update([answer])
        return not reason
