"""Who is who over time."""

from __future__ import annotations

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from emotion_perception.core.settings import TrackerSettings
from emotion_perception.core.values import Box, Detections, Track

_NOMINAL_RATE = 30.0  # frames per second in which the library counts its buffer


class Tracker:
    """ByteTrack (Zhang et al., ECCV 2022) on the camera's clock.

    People are found again by where they should be by now, so ages and speeds come from the
    stamps: a camera that pauses does not keep a lost person alive. One that is always slower than
    `lost_after` is granted two of its own intervals, else nobody could ever be followed.
    """

    def __init__(self, settings: TrackerSettings, confidence: float, ids_assigned: int = 0) -> None:
        """
        Args:
            ids_assigned: people who got an id before; ids go on from there.
            confidence: a person begins with a box at least as sure; weaker boxes only help to
                keep somebody in view.
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
        """How many people got an id so far."""
        self._newest_ns: int | None = None
        self._interval = 0.0

    @property
    def known(self) -> frozenset[str]:
        """Everybody who is followed, those out of sight for a moment included."""
        return frozenset(self._person_ids.values())

    def update(self, boxes: Detections, stamp_ns: int) -> tuple[Track, ...]:
        """The people in a frame. To be called for empty rooms too: that is how people get lost.

        Args:
            boxes: what the detector found, pixels.
            stamp_ns: the frame's time, later than at the call before.
        """
        self._tracker.maximum_time_without_update = max(
            self._lost_after, 2 * self._usual_interval(stamp_ns)
        )
        found = sv.Detections(
            xyxy=np.asarray(boxes.corners, np.float32),
            confidence=np.asarray(boxes.confidence, np.float32),
        )
        found = self._tracker.update(found, timestamp=stamp_ns / 1e9)
        assert found.confidence is not None
        assert found.tracker_id is not None
        people = [
            Track(self._person_id(int(number)), Box(*map(float, corners)), float(confidence))
            for corners, confidence, number in zip(
                found.xyxy, found.confidence, found.tracker_id, strict=True
            )
            if number >= 0
        ]
        alive = {track.tracker_id for track in self._tracker.tracks}
        self._person_ids = {n: i for n, i in self._person_ids.items() if n in alive}
        return tuple(sorted(people, key=lambda person: person.person_id))

    def reset(self) -> None:
        """Forget everybody. Ids go on counting, so that none is used twice."""
        self._tracker.reset()
        self._person_ids.clear()
        self._newest_ns, self._interval = None, 0.0

    def _usual_interval(self, stamp_ns: int) -> float:
        """Seconds between frames: the shorter of the last two, so that one pause is not usual."""
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
