"""Turn events, a frame at t or assessments at t + latency, into estimates.

    frame ─► detector ─► tracker ─► Scene ─► estimates.at(scene) ─► PeopleEstimate
                                      │            ▲
            worker idle? scheduler.next_round      │ estimates.update(assessments)
                                      ▼            │
                        recognizer.assess(scene, people)

Nothing here waits, sleeps or starts a thread. The node calls `assess` on a worker thread and
brings the assessments back to its own thread; a replay calls it in line and delivers them after a
simulated latency. Both get the same estimates from the same events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emotion_perception.core.interfaces import Detector, Recognizer
from emotion_perception.core.reasons import ReasonCounter
from emotion_perception.core.settings import Settings, TopicDetectorSettings
from emotion_perception.core.text import printable
from emotion_perception.core.values import (
    Assessment,
    Box,
    Cause,
    Detections,
    Estimate,
    Frame,
    PeopleEstimate,
    Scene,
    SourceStatus,
    Status,
    Track,
)
from emotion_perception.perception.change import ChangeDetector
from emotion_perception.perception.estimates import Estimates
from emotion_perception.perception.output_checks import (
    MAX_REASON,
    checked_assessments,
    checked_detections,
)
from emotion_perception.perception.position import DepthImage, position_of
from emotion_perception.perception.scheduling import Scheduler
from emotion_perception.perception.source_tracks import SourceTracks
from emotion_perception.perception.stamps import StampOrder
from emotion_perception.perception.tracking import Tracker
from emotion_perception.perception.visibility import why_not_visible

TOO_SOON = "left out (max_rate)"
WAITING, BEING_ASSESSED, MODEL_BUSY = "waiting for its turn", "being assessed", "model busy"
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
        confidence = settings.detector.confidence
        self._tracker: Tracker | SourceTracks
        if (
            isinstance(settings.detector, TopicDetectorSettings)
            and settings.detector.ids == "source"
        ):
            self._tracker = SourceTracks(settings.tracker, confidence, ids_assigned)
        else:
            self._tracker = Tracker(settings.tracker, confidence, ids_assigned)
        self._stamps = StampOrder()
        self._scheduler = Scheduler()
        self._changes = ChangeDetector()
        self._estimates = Estimates(recognizer.labels, recognizer.thresholds)
        self._scene: Scene | None = None
        self._visible: tuple[Track, ...] = ()
        self._asked: Round | None = None
        """The round that the recognizer works on."""
        self._failing: dict[str, str] = {}
        self.wrong_answers: dict[str, str] = {}
        """Reason by person whose newest assessment was wrong, of the newest round."""
        self.wrong_detections = ReasonCounter()
        """Reason to the number of frames with detections that were left out."""
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

    def on_frame(self, frame: Frame, depth: DepthImage | None = None) -> PeopleEstimate:
        """Detect and track people; the frame becomes the newest scene.

        With a depth image of the same view people have positions.

        A stamp before the newest one means that the clock was set back (a bag restarted), since
        `why_skipped` sorts out late images. All tracks are dropped then, because ages would be
        meaningless.
        """
        if self._stamps.add(frame.stamp_ns):
            self._drop_tracks()
        detections, fault = checked_detections(
            self._detector.detect(frame), frame.width, frame.height
        )
        if fault:
            self.wrong_detections.count(fault)
        tracks = self._tracker.update(detections, frame.stamp_ns, frame.image)
        people = _with_faces(tracks, detections)
        if depth is not None:
            people = tuple(
                replace(p, position=position_of(p.box, frame.width, frame.height, depth))
                for p in people
            )
        self._scene, self.source_status = Scene(frame, people), SourceStatus.LIVE
        # Jitter of the camera keeps the rhythm of due times; a pause starts a new one.
        next_beat_ns = self._beat_ns + self._period_ns
        on_beat = 0 <= frame.stamp_ns - next_beat_ns < self._period_ns
        self._beat_ns = next_beat_ns if on_beat else frame.stamp_ns
        self._estimates.retain(self._tracker.known)
        self._scheduler.retain(self._tracker.known)
        self._changes.retain(self._tracker.known)
        self._failing = {i: r for i, r in self._failing.items() if i in self._tracker.known}
        self._visible = tuple(person for person in people if self._is_visible(person, frame))
        self._scheduler.see(self._visible, frame.stamp_ns)
        self._rest(self._scene)
        return self.now()

    def next_round(self) -> Round | None:
        """Return the people to assess now, in the newest scene; None if no person is due.

        It is called when the recognizer is idle.
        """
        if self._scene is None:
            return None
        stamp_ns, limits = self._scene.frame.stamp_ns, self.settings.scheduler
        people = self._scheduler.next_round(
            self._visible, stamp_ns, limits.refresh, limits.max_people
        )
        if not people:
            return None
        if limits.refresh_still > 0:
            self._changes.ask(self._scene, people)
        self._asked = Round(self._scene, tuple(people))
        return self._asked

    def on_assessments(self, assessments: Sequence[Assessment]) -> PeopleEstimate:
        """Update the estimates with the answer to the round of `next_round`.

        A wrong assessment is a failed question about its person, see `failing`; those of the others
        hold. The caller publishes the newest scene again.

        Raises:
            RecognizerError: It is not one assessment per person; the caller calls `on_failure`.
        """
        if self._asked is not None:  # otherwise the tracks were dropped meanwhile
            scene, people = self._asked.scene, self._asked.people
            valid, wrong = checked_assessments(
                assessments, scene, people, len(self._estimates.labels)
            )
            self._asked, self.wrong_answers = None, wrong
            self._estimates.update(valid, self.settings.smoothing)
            answered = [assessment.person_id for assessment in valid]
            self._scheduler.answered(answered, self._stamp_ns)
            for person_id in answered:
                self._failing.pop(person_id, None)
            for person_id, reason in wrong.items():
                self._fail([person_id], reason)
        return self.now(Cause.ASSESSMENT)

    def on_failure(self, failed: Round, reason: str = "the recognizer failed") -> None:
        """Record that a round has no assessments.

        Its people are due again at once, or after a pause if it was about one person, whose
        estimate gets the reason while there is no other. See `Scheduler`.
        """
        if failed is self._asked:
            self._asked = None
            self._fail([person.person_id for person in failed.people], f"no answer: {reason}")

    @property
    def failing(self) -> dict[str, str]:
        """Return the reason by person whose own question failed and was not answered since."""
        return dict(self._failing)

    @property
    def every_question_fails(self) -> bool:
        """Return whether the own questions of all visible people failed."""
        ids = [person.person_id for person in self._visible]
        return bool(ids) and all(person_id in self._failing for person_id in ids)

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
            thresholds=self._estimates.thresholds,
        )

    def reset(self) -> None:
        """Drop all tracks; ids continue, so that none is used twice."""
        self._stamps.reset()
        self._drop_tracks()

    def _drop_tracks(self) -> None:
        self._scene, self._visible, self._beat_ns, self._asked = None, (), 0, None
        self._failing.clear()
        self._tracker.reset()
        self._estimates.retain(())
        self._scheduler.reset()
        self._changes.reset()

    def _rest(self, scene: Scene) -> None:
        """Let people rest who do not change, if the settings say so."""
        limits, changed = self.settings.scheduler, frozenset[str]()
        if limits.refresh_still > 0:
            changed = self._changes.see(scene, self._visible, limits.min_change)
        stamp_ns, max_age = scene.frame.stamp_ns, self.settings.max_age
        self._scheduler.rest(changed, stamp_ns, limits.refresh_still, max_age, limits.max_people)

    def _fail(self, person_ids: list[str], reason: str) -> None:
        """Record that the question about these people failed."""
        self._scheduler.failed(person_ids, self._stamp_ns)
        if len(person_ids) == 1:
            self._failing[person_ids[0]] = printable(reason, MAX_REASON)

    @property
    def _stamp_ns(self) -> int:
        return self._scene.frame.stamp_ns if self._scene else 0

    def _estimate(self, person: Track) -> Estimate:
        assert self._scene is not None
        if self.source_status is not SourceStatus.LIVE:
            return self._estimates.expired(person, _NOT_LIVE[self.source_status])
        now_ns = self._scene.frame.stamp_ns + max(self.since_arrival_ns(), 0)
        estimate = self._estimates.at(person, now_ns, self.settings.max_age)
        if estimate.status in (Status.PENDING, Status.EXPIRED):
            return replace(estimate, reason=self._why_waiting(estimate))
        return estimate

    def _why_waiting(self, estimate: Estimate) -> str:
        """Return why there is no assessment that holds."""
        person_id = estimate.track.person_id
        if reason := self._failing.get(person_id):
            return reason
        if self._asked is None:
            return estimate.reason or WAITING
        asked = any(person.person_id == person_id for person in self._asked.people)
        return BEING_ASSESSED if asked else MODEL_BUSY

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


def _with_faces(people: tuple[Track, ...], detections: Detections) -> tuple[Track, ...]:
    """Return the tracks with the faces of their detections, whose boxes they have."""
    if detections.faces is None:
        return people
    face_of = {
        tuple(map(float, box)): Box(*map(float, face))
        for box, face in zip(
            np.asarray(detections.corners, np.float32), detections.faces, strict=True
        )
    }
    return tuple(replace(person, face=face_of.get(person.box)) for person in people)
