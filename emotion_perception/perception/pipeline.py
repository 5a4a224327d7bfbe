"""Turn events, a frame at t or assessments at t + latency, into estimates.

    frame ─► detector ─► tracker ─► Scene ─► estimates.at(scene) ─► PeopleEstimate
                                      │            ▲
            worker idle? scheduler.due             │ estimates.update(assessments)
                                      ▼            │
                        recognizer.assess(scene, people)

Nothing here waits, sleeps or starts a thread. The node calls `assess` on a worker thread and
brings the assessments back to its own thread; a replay calls it in line and delivers them after a
simulated latency. Both get the same estimates from the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emotion_perception.core.interfaces import Detector, Recognizer
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import (
    Assessment,
    Cause,
    Estimate,
    Frame,
    PeopleEstimate,
    Scene,
    SourceStatus,
    Track,
)
from emotion_perception.perception.estimates import Estimates
from emotion_perception.perception.scheduling import Scheduler
from emotion_perception.perception.stamps import StampOrder
from emotion_perception.perception.tracking import Tracker
from emotion_perception.perception.visibility import why_not_visible

TOO_SOON = "left out (max_rate)"
_NOT_LIVE = {
    SourceStatus.INACTIVE: "inactive",
    SourceStatus.CAMERA_SILENT: "camera silent",
    SourceStatus.DETECTOR_FAILED: "detector failed",
}
"""Why no estimate holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The people whom the recognizer assesses next, in one scene."""

    scene: Scene
    people: tuple[Track, ...]


class Pipeline:
    """Track people and hold their estimates. It is owned by one thread."""

    def __init__(
        self,
        detector: Detector,
        recognizer: Recognizer,
        settings: Settings,
        ids_assigned: int = 0,
        run_id: str = "",
    ) -> None:
        """Create a pipeline.

        Args:
            detector: detects people in frames.
            recognizer: its labels and thresholds are used; `assess` is called by the owner.
            settings: those of the node.
            ids_assigned: number of ids that were assigned before, so that none is used twice.
            run_id: of the process or replay.
        """
        self.settings = settings
        self.since_arrival_ns: Callable[[], int] = lambda: 0
        """Returns the nanoseconds since the newest frame arrived, by the clock of the owner."""
        self.source_status = SourceStatus.LIVE
        """Set by the owner when images stop; each frame sets it to LIVE again."""
        self._run_id = run_id
        self._detector = detector
        self._model = recognizer.name
        self._calibration = recognizer.calibration
        self._tracker = Tracker(settings.tracker, settings.detector.confidence, ids_assigned)
        self._stamps = StampOrder()
        self._scheduler = Scheduler()
        self._estimates = Estimates(recognizer.labels, recognizer.thresholds)
        self._scene: Scene | None = None
        self._visible: tuple[Track, ...] = ()
        self._beat_ns = 0
        """The due time of the newest frame under `max_rate`, near its stamp."""

    @property
    def ids_assigned(self) -> int:
        """Number of ids assigned so far."""
        return self._tracker.ids_assigned

    @property
    def scene(self) -> Scene | None:
        """The newest frame with its tracks; None before the first frame."""
        return self._scene

    def accepts(self, stamp_ns: int) -> bool:
        """Return whether an image that arrived is to be processed; see `why_skipped`."""
        return not self.why_skipped(stamp_ns)

    def why_skipped(self, stamp_ns: int) -> str:
        """Return why an image is not to be processed; empty if it is. Call it once per image.

        Returns:
            `stamps.REPEATED`, `stamps.LATE`, `TOO_SOON` or an empty text.
        """
        if reason := self._stamps.why_skipped(stamp_ns):
            return reason
        newest_ns = self._stamps.newest_ns
        in_order = newest_ns is not None and stamp_ns > newest_ns
        return TOO_SOON if in_order and stamp_ns < self._beat_ns + self._period_ns else ""

    def on_frame(self, frame: Frame) -> PeopleEstimate:
        """Detect and track people; the frame becomes the newest scene.

        A stamp before the newest one means that the clock was set back (a bag restarted), since
        `why_skipped` sorts out late images. All tracks are dropped then, because ages would be
        meaningless.
        """
        if self._stamps.add(frame.stamp_ns):
            self._drop_tracks()
        people = self._tracker.update(self._detector.detect(frame), frame.stamp_ns)
        self._scene, self.source_status = Scene(frame, people), SourceStatus.LIVE
        # Jitter of the camera keeps the rhythm of due times; a pause starts a new one.
        next_beat_ns = self._beat_ns + self._period_ns
        on_beat = 0 <= frame.stamp_ns - next_beat_ns < self._period_ns
        self._beat_ns = next_beat_ns if on_beat else frame.stamp_ns
        self._estimates.retain(self._tracker.known)
        self._scheduler.retain(self._tracker.known)
        self._visible = tuple(person for person in people if self._is_visible(person, frame))
        return self.now()

    def next_round(self) -> Round | None:
        """Return the people to assess now, in the newest scene; None if no person is due.

        It is called when the recognizer is idle.
        """
        if self._scene is None:
            return None
        stamp_ns, limits = self._scene.frame.stamp_ns, self.settings.scheduler
        due = self._scheduler.due(self._visible, stamp_ns, limits.refresh)[: limits.max_people]
        if not due:
            return None
        self._scheduler.mark_asked(due, stamp_ns)
        return Round(self._scene, tuple(due))

    def on_assessments(self, assessments: Sequence[Assessment]) -> PeopleEstimate:
        """Update the estimates; the caller publishes the newest scene again."""
        self._estimates.update(assessments, self.settings.smoothing)
        return self.now(Cause.ASSESSMENT)

    def on_failure(self, failed: Round) -> None:
        """Make the people of a round without assessments due again."""
        self._scheduler.mark_failed(failed.people)

    def now(self, cause: Cause = Cause.FRAME) -> PeopleEstimate:
        """Return the estimates of all people in the newest scene.

        Their age is counted up to now: the stamp of the newest frame, and the time since it
        arrived. Before the first frame there are no people, and stamp and size are 0.
        """
        frame = self._scene.frame if self._scene else None
        return PeopleEstimate(
            stamp_ns=frame.stamp_ns if frame else 0,
            camera=frame.camera if frame else "",
            width=frame.width if frame else 0,
            height=frame.height if frame else 0,
            model=self._model,
            calibration=self._calibration,
            labels=self._estimates.labels,
            people=tuple(map(self._estimate, self._scene.people if self._scene else ())),
            source_status=self.source_status,
            cause=cause,
            run_id=self._run_id,
        )

    def reset(self) -> None:
        """Drop all tracks; ids continue, so that none is used twice."""
        self._stamps.reset()
        self._drop_tracks()

    def _drop_tracks(self) -> None:
        self._scene, self._visible, self._beat_ns = None, (), 0
        self._tracker.reset()
        self._estimates.retain(())
        self._scheduler.retain(())

    def _estimate(self, person: Track) -> Estimate:
        assert self._scene is not None
        if self.source_status is not SourceStatus.LIVE:
            return self._estimates.expired(person, _NOT_LIVE[self.source_status])
        now_ns = self._scene.frame.stamp_ns + max(self.since_arrival_ns(), 0)
        return self._estimates.at(person, now_ns, self.settings.max_age)

    @property
    def _period_ns(self) -> int:
        rate = self.settings.max_rate
        return round(1e9 / rate) if rate else 0

    def _is_visible(self, person: Track, frame: Frame) -> bool:
        """Return whether a person can be assessed; if not, record the reason as an abstention."""
        reason = why_not_visible(frame, person.box, self.settings.visibility)
        if reason:
            abstention = Assessment(person.person_id, frame.stamp_ns, None, reason=reason)
            self._estimates.update([abstention])
        return not reason
