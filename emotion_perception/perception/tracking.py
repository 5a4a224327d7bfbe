"""Track people over frames."""

from __future__ import annotations

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from emotion_perception.core.settings import TrackerSettings
from emotion_perception.core.values import Box, Detections, Track

_NOMINAL_RATE = 30.0  # frames per second of the buffer length that the library takes


class Tracker:
    """ByteTrack (Zhang et al., ECCV 2022) on the camera's clock.

    Ages and speeds follow from the stamps, so a pause of the camera does not extend a lost track. A
    camera that is always slower than `lost_after` gets two of its own intervals instead; otherwise
    no person could be tracked.
    """

    def __init__(self, settings: TrackerSettings, confidence: float, ids_assigned: int = 0) -> None:
        """Create a tracker.

        Args:
            settings: those of the tracker.
            confidence: minimum detection confidence to start a track; weaker detections can only
                extend one.
            ids_assigned: number of ids that were assigned before; ids continue from there.
        """
        self._lost_after = settings.lost_after
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(settings.lost_after * _NOMINAL_RATE),
            frame_rate=_NOMINAL_RATE,
            track_activation_threshold=confidence,
            high_conf_det_threshold=confidence,
            minimum_consecutive_frames=settings.confirm_frames,
            minimum_iou_threshold=settings.min_iou,
        )
        self._person_ids: dict[int, str] = {}
        self.ids_assigned = ids_assigned
        """Number of ids assigned so far."""
        self._newest_ns: int | None = None
        self._interval = 0.0

    @property
    def known(self) -> frozenset[str]:
        """The ids of all tracks, including those without a detection at the moment."""
        return frozenset(self._person_ids.values())

    def update(self, boxes: Detections, stamp_ns: int) -> tuple[Track, ...]:
        """Return the tracks in a frame; call it for frames without people, too, so that tracks end.

        Args:
            boxes: the detections of the frame, in pixels.
            stamp_ns: the time of the frame, later than in the previous call.
        """
        self._tracker.maximum_time_without_update = max(
            self._lost_after, 2 * self._usual_interval(stamp_ns)
        )
        detections = sv.Detections(
            xyxy=np.asarray(boxes.corners, np.float32),
            confidence=np.asarray(boxes.confidence, np.float32),
        )
        detections = self._tracker.update(detections, timestamp=stamp_ns / 1e9)
        assert detections.confidence is not None
        assert detections.tracker_id is not None
        people = [
            Track(self._person_id(int(number)), Box(*map(float, corners)), float(confidence))
            for corners, confidence, number in zip(
                detections.xyxy, detections.confidence, detections.tracker_id, strict=True
            )
            if number >= 0
        ]
        alive = {track.tracker_id for track in self._tracker.tracks}
        self._person_ids = {n: i for n, i in self._person_ids.items() if n in alive}
        return tuple(sorted(people, key=lambda person: person.person_id))

    def reset(self) -> None:
        """Drop all tracks; ids continue, so that none is used twice."""
        self._tracker.reset()
        self._person_ids.clear()
        self._newest_ns, self._interval = None, 0.0

    def _usual_interval(self, stamp_ns: int) -> float:
        """Return the shorter of the last two intervals in seconds: one pause does not count."""
        before, elapsed = self._interval, 0.0
        if self._newest_ns is not None:
            elapsed = (stamp_ns - self._newest_ns) / 1e9
        self._newest_ns, self._interval = stamp_ns, elapsed
        return min(before, elapsed)

    def _person_id(self, number: int) -> str:
        if number not in self._person_ids:
            self.ids_assigned += 1
            self._person_ids[number] = f"p{self.ids_assigned:05d}"
        return self._person_ids[number]
