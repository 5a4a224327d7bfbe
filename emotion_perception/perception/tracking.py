"""Track people over frames, by place first and by the colours of their clothes second."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker, IoU

from emotion_perception.core.settings import TrackerSettings
from emotion_perception.core.values import Box, Detections, FloatArray, ImageArray, Track
from emotion_perception.perception.appearance import Appearance, describe

_NOMINAL_RATE = 30.0  # frames per second of the buffer length that the library takes

# Chosen on drawn clips (seeds 100 to 123) and on the first 40 s of Debian's vtest.avi.
_SAME_PERSON = 0.78  # similarity from which a lost person is found again
_OTHER_PERSON = 0.6  # similarity below which a track and a detection are different people
_MARGIN = 0.06  # by which a match must be more similar than each alternative
_BETTER_MATCH = 0.08  # by which a detection that belongs to another person is more similar to them
_LEARNING_S = 1.0  # time constant of the appearance of a person

# A person moves at most this far, in heights of the box: a fast walk, and room for a box that
# changes its shape.
_SPEED = 2.0  # per second
_REACH = 0.7
_GROWTH = 2.0  # ratio of the heights of two boxes of a person, one of them partly hidden

_MAX_WAIT_NS = 500_000_000  # for a better view of a new person who may be a lost one
_MAX_LOST = 64  # people without a track who are remembered


@dataclass(slots=True, eq=False)
class _Person:
    """What the tracker knows about one person."""

    person_id: str
    box: Box
    stamp_ns: int
    """The newest frame in which the person was detected."""
    appearance: Appearance | None = None

    def can_be_at(self, box: Box, stamp_ns: int) -> bool:
        """Return whether the person can have moved into a box."""
        if not (self.box.area > 0 and box.area > 0):
            return False
        sideways = (box.left + box.right - self.box.left - self.box.right) / 2
        distance = math.hypot(sideways, box.bottom - self.box.bottom)
        elapsed = (stamp_ns - self.stamp_ns) / 1e9
        smaller, larger = sorted((self.box.height, box.height))
        return distance <= (_REACH + _SPEED * elapsed) * smaller and larger <= _GROWTH * smaller

    def similarity(self, appearance: Appearance | None) -> float | None:
        """Return the similarity to an appearance, 0..1; None if they cannot be compared."""
        if self.appearance is None or appearance is None:
            return None
        return self.appearance.similarity(appearance)


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A detection that ByteTrack assigned to a confirmed track."""

    number: int
    """Of the track in the library."""
    box: Box
    confidence: float
    appearance: Appearance | None


class Tracker:
    """ByteTrack (Zhang et al., ECCV 2022) on the camera's clock, with appearance as a second cue.

    Ages and speeds follow from the stamps, so a pause of the camera does not extend a lost track. A
    camera that is always slower than `lost_after` gets two of its own intervals instead; otherwise
    no person could be tracked.

    Appearance acts in two places, and in each only together with place and time. A detection does
    not extend a track whose person looks different, or if it looks more like another person who can
    be there: people who pass each other keep their ids. A new track gets the id of a lost person
    who looks the same, can have walked there, and is the only such person; otherwise a new id. This
    is decided once, when the track is confirmed, and at most 0.5 s later if lost people could be
    there but too little of the new person is visible; until then the person is not in the output.
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
        self._remember_ns = round(settings.remember * 1e9)
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(settings.lost_after * _NOMINAL_RATE),
            frame_rate=_NOMINAL_RATE,
            track_activation_threshold=confidence,
            high_conf_det_threshold=confidence,
            minimum_consecutive_frames=settings.confirm_frames,
            minimum_iou_threshold=settings.min_iou,
            iou=_OverlapOfSamePerson(self._searched, self._are_different),
        )
        self._people: dict[int, _Person] = {}
        """Number of a track to its person; lost people keep the number of their last track."""
        self._waiting_since_ns: dict[int, int] = {}
        """Number of a confirmed track without a person to the stamp of its confirmation."""
        self._frame = _FrameAppearances()
        self.ids_assigned = ids_assigned
        """Number of ids assigned so far."""
        self._newest_ns: int | None = None
        self._interval = 0.0

    @property
    def known(self) -> frozenset[str]:
        """The ids of all tracks and of lost people, with or without a detection at the moment."""
        return frozenset(person.person_id for person in self._people.values())

    def update(
        self, boxes: Detections, stamp_ns: int, image: ImageArray | None = None
    ) -> tuple[Track, ...]:
        """Return the tracks in a frame; call it for frames without people, too, so that tracks end.

        Args:
            boxes: the detections of the frame, in pixels.
            stamp_ns: the time of the frame, later than in the previous call.
            image: the frame, (H, W, 3) RGB; without it only places count.
        """
        elapsed = (stamp_ns - self._newest_ns) / 1e9 if self._newest_ns is not None else 0.0
        # The shorter of the last two intervals: one pause of the camera does not count.
        usual_interval = min(self._interval, elapsed)
        self._newest_ns, self._interval = stamp_ns, elapsed
        self._tracker.maximum_time_without_update = max(self._lost_after, 2 * usual_interval)
        sightings = self._associate(boxes, stamp_ns, image if self._remember_ns else None)
        self._identify(sightings, stamp_ns)
        weight = 1 - math.exp(-elapsed / _LEARNING_S)
        tracks = []
        for sighting in sightings:
            person = self._people.get(sighting.number)
            if person is None:
                continue  # it waits for a better view
            person.box, person.stamp_ns = sighting.box, stamp_ns
            if person.appearance is None:
                person.appearance = sighting.appearance
            elif sighting.appearance is not None:
                person.appearance = person.appearance.updated(sighting.appearance, weight)
            tracks.append(Track(person.person_id, sighting.box, sighting.confidence))
        self._forget(stamp_ns)
        return tuple(sorted(tracks, key=lambda track: track.person_id))

    def reset(self) -> None:
        """Drop all tracks and lost people; ids continue, so that none is used twice."""
        self._tracker.reset()
        self._people.clear()
        self._waiting_since_ns.clear()
        self._newest_ns, self._interval = None, 0.0

    def _associate(
        self, boxes: Detections, stamp_ns: int, image: ImageArray | None
    ) -> list[_Sighting]:
        """Let ByteTrack assign the detections to tracks; return those of confirmed tracks."""
        corners = np.asarray(boxes.corners, np.float32)
        found = [Box(*map(float, each)) for each in corners]
        appearances: Sequence[Appearance | None] = [None] * len(found)
        if image is not None:
            appearances = describe(image, found)
        self._frame = _FrameAppearances(
            stamp_ns, {each.tobytes(): a for each, a in zip(corners, appearances, strict=True)}
        )
        detections = self._tracker.update(
            sv.Detections(
                xyxy=corners,
                confidence=np.asarray(boxes.confidence, np.float32),
                data={"index": np.arange(len(found))},
            ),
            timestamp=stamp_ns / 1e9,
        )
        if not len(detections):
            return []
        assert detections.tracker_id is not None
        indices = np.asarray(detections.data["index"], int)
        return [
            _Sighting(int(number), found[i], float(boxes.confidence[i]), appearances[i])
            for number, i in zip(detections.tracker_id, indices, strict=True)
            if number >= 0
        ]

    def _searched(self) -> list[_Person | None]:
        """Return the person of each track that the library searches now; None: not confirmed."""
        return [
            self._people.get(track.tracker_id)
            for track in self._tracker.tracks
            if track.time_since_update > 0  # otherwise it was found by a surer detection
        ]

    def _are_different(self, person: _Person | None, detected: bytes) -> bool:
        """Return whether a detection shows another person than that of a track.

        Args:
            person: that of the track.
            detected: the box of the detection, (4,) float32.
        """
        frame = self._frame
        appearance = frame.appearance_by_box.get(detected)
        similarity = person.similarity(appearance) if person else None
        if similarity is None:
            return False
        if similarity < _OTHER_PERSON:
            return True
        if detected not in frame.best_by_box:
            box = Box(*map(float, np.frombuffer(detected, np.float32)))
            near = (p for p in self._people.values() if p.can_be_at(box, frame.stamp_ns))
            frame.best_by_box[detected] = max(
                (person.similarity(appearance) or 0.0 for person in near), default=0.0
            )
        best = frame.best_by_box[detected]
        return best >= max(_SAME_PERSON, similarity + _BETTER_MATCH)

    def _identify(self, sightings: list[_Sighting], stamp_ns: int) -> None:
        """Give each track without a person that of a lost person or a new one, or let it wait."""
        seen = {sighting.number for sighting in sightings}
        new = [sighting for sighting in sightings if sighting.number not in self._people]
        lost = {
            number: person
            for number, person in self._people.items()
            if number not in seen and stamp_ns - person.stamp_ns <= self._remember_ns
        }
        similarity = np.full((len(new), len(lost)), np.nan)
        possible = np.zeros(similarity.shape, bool)
        for i, sighting in enumerate(new):
            for j, person in enumerate(lost.values()):
                if person.appearance is not None and person.can_be_at(sighting.box, stamp_ns):
                    possible[i, j] = True
                    value = person.similarity(sighting.appearance)
                    similarity[i, j] = np.nan if value is None else value
        matches = _unambiguous_matches(similarity)
        numbers = list(lost)
        for i, sighting in enumerate(new):
            since_ns = self._waiting_since_ns.setdefault(sighting.number, stamp_ns)
            unclear = possible[i].any() and np.isnan(similarity[i]).all()
            if unclear and sighting.appearance is not None and stamp_ns - since_ns < _MAX_WAIT_NS:
                continue
            del self._waiting_since_ns[sighting.number]
            if i in matches:
                number = numbers[matches[i]]
                self._people[sighting.number] = self._people.pop(number)
                # The track in which the person was lost must not find another one.
                self._tracker.tracks = [t for t in self._tracker.tracks if t.tracker_id != number]
            else:
                self.ids_assigned += 1
                person_id = f"p{self.ids_assigned:05d}"
                self._people[sighting.number] = _Person(person_id, sighting.box, stamp_ns)

    def _forget(self, stamp_ns: int) -> None:
        """Forget people without a track who were lost for too long, or cannot be recognized."""
        alive = {track.tracker_id for track in self._tracker.tracks}
        self._waiting_since_ns = {n: t for n, t in self._waiting_since_ns.items() if n in alive}
        lost = [
            number
            for number, person in self._people.items()
            if number not in alive
            and person.appearance is not None
            and stamp_ns - person.stamp_ns <= self._remember_ns
        ]
        lost.sort(key=lambda number: (-self._people[number].stamp_ns, number))
        kept = alive.union(lost[:_MAX_LOST])
        self._people = {n: person for n, person in self._people.items() if n in kept}


@dataclass(slots=True)
class _FrameAppearances:
    """What was computed about the appearance of people in one frame."""

    stamp_ns: int = 0
    appearance_by_box: dict[bytes, Appearance | None] = field(default_factory=dict)
    best_by_box: dict[bytes, float] = field(default_factory=dict)
    """Box of a detection to the largest similarity of a person who can be there."""


class _OverlapOfSamePerson(IoU):
    """The overlap of predicted and detected boxes, 0 where they show different people."""

    def __init__(
        self,
        searched: Callable[[], list[_Person | None]],
        are_different: Callable[[_Person | None, bytes], bool],
    ) -> None:
        self._searched, self._are_different = searched, are_different

    def _compute(self, boxes_1: FloatArray, boxes_2: FloatArray) -> FloatArray:
        overlap: FloatArray = super()._compute(boxes_1, boxes_2)
        for person, row in zip(self._searched(), overlap, strict=True):
            for j in np.flatnonzero(row):
                if self._are_different(person, boxes_2[j].tobytes()):
                    row[j] = 0.0
        return overlap


def _unambiguous_matches(similarity: FloatArray) -> dict[int, int]:
    """Return row to column of each pair that is similar enough, and more so than its alternatives.

    Args:
        similarity: (N, M), NaN where a pair is not possible or cannot be compared.
    """
    values = np.nan_to_num(similarity, nan=0.0)
    matches = {}
    for i, j in np.argwhere(values >= _SAME_PERSON):
        alternatives = np.concatenate([np.delete(values[i], j), np.delete(values[:, j], i)])
        if values[i, j] > max(alternatives, default=0.0) + _MARGIN:
            matches[int(i)] = int(j)
    return matches
