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

from collections.abc import Sequence
from dataclasses import dataclass

from emotion_perception.core.interfaces import Detector, Recognizer
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import (
    Assessment,
    Frame,
    PeopleEstimate,
    Scene,
    Track,
)
from emotion_perception.perception.estimates import Estimates
from emotion_perception.perception.scheduling import Scheduler
from emotion_perception.perception.tracking import Tracker
from emotion_perception.perception.visibility import why_not_visible


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """What the recognizer is to be asked next."""

    scene: Scene
    people: tuple[Track, ...]


class Pipeline:
    """Events in, estimates out. Owned by one thread."""

    def __init__(
        self, detector: Detector, recognizer: Recognizer, settings: Settings, ids_assigned: int = 0
    ) -> None:
        """
        Args:
            ids_assigned: people who got an id before, so that none is used twice.
        """
        self.settings = settings
        self._detector = detector
        self._model = recognizer.name
        self._calibration = recognizer.calibration
        self._tracker = Tracker(settings.tracker, settings.detector.confidence, ids_assigned)
        self._scheduler = Scheduler()
        self._estimates = Estimates(recognizer.labels, recognizer.thresholds)
        self._scene: Scene | None = None
        self._visible: tuple[Track, ...] = ()
        self._beat_ns = 0
        """When the newest frame was due, given `max_rate`; near its stamp."""

    @property
    def ids_assigned(self) -> int:
        """How many people got an id so far."""
        return self._tracker.ids_assigned

    @property
    def scene(self) -> Scene | None:
        """The newest frame with the people in it; None before the first."""
        return self._scene

    def accepts(self, stamp_ns: int) -> bool:
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
        self._estimates.retain(self._tracker.known)
        self._scheduler.retain(self._tracker.known)
        self._visible = tuple(person for person in people if self._is_visible(person, frame))
        return self.now()

    def next_round(self) -> Round | None:
        """Whom to ask about now that the recognizer is idle, in the newest scene; None: nobody."""
        if self._scene is None:
            return None
        stamp_ns, limits = self._scene.frame.stamp_ns, self.settings.scheduler
        due = self._scheduler.due(self._visible, stamp_ns, limits.refresh)[: limits.max_people]
        if not due:
            return None
        self._scheduler.mark_asked(due, stamp_ns)
        return Round(self._scene, tuple(due))

    def on_assessments(self, answer: Sequence[Assessment]) -> PeopleEstimate:
        """Take in an answer; the newest scene is to be published again."""
        self._estimates.update(answer, self.settings.smoothing)
        return self.now()

    def on_failure(self, question: Round) -> None:
        """There is no answer to this question: whoever it was about is due again."""
        self._scheduler.mark_failed(question.people)

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
        self._estimates.retain(())
        self._scheduler.retain(())

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
