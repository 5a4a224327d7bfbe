"""People who are tracked by another node: keep its ids."""

from __future__ import annotations

import re

from emotion_perception.core.settings import TrackerSettings
from emotion_perception.core.values import Box, Detections, ImageArray, Track

_REMEMBERED = 1000  # ids of the source
_MAX_ID = 32  # characters of an id of the source that are kept


class SourceTracks:
    """Turns the ids of a source into person ids; takes the place of the tracker.

    The first person has the id "p00001_" and then the id of the source, with underscores in place
    of characters that a ROS name cannot hold. So it is unique and valid whatever the source sends.
    An id of the source that comes back is the same person, until `reset`: the source may have
    started again then, and given its ids anew.
    """

    def __init__(self, settings: TrackerSettings, confidence: float, ids_assigned: int = 0) -> None:
        """Start without people.

        Args:
            settings: Those of the tracker, of which `lost_after` is used.
            confidence: Minimum detection confidence of a person who was not there before.
            ids_assigned: Number of ids that were assigned before; ids continue from there.
        """
        self._lost_after_ns = round(settings.lost_after * 1e9)
        self._confidence = confidence
        self.ids_assigned = ids_assigned
        """Number of ids assigned so far."""
        self._person_ids: dict[str, str] = {}
        self._seen_ns: dict[str, int] = {}

    @property
    def known(self) -> frozenset[str]:
        """The ids of the people who were seen in the last `lost_after` seconds."""
        return frozenset(self._seen_ns)

    def update(
        self, boxes: Detections, stamp_ns: int, image: ImageArray | None = None
    ) -> tuple[Track, ...]:
        """Return the people in a frame; boxes with an empty id are left out.

        Args:
            boxes: The detections of the frame, in pixels, with ids.
            stamp_ns: The time of the frame, later than in the previous call.
            image: The frame, which is not looked at.
        """
        people = []
        for source_id, corners, confidence in zip(
            boxes.ids or (), boxes.corners, boxes.confidence, strict=True
        ):
            known = self._person_ids.get(source_id) in self._seen_ns
            if source_id and (known or confidence >= self._confidence):
                person_id = self._person_id(source_id)
                self._seen_ns[person_id] = stamp_ns
                people.append(Track(person_id, Box(*map(float, corners)), float(confidence)))
        lost = [i for i, ns in self._seen_ns.items() if stamp_ns - ns > self._lost_after_ns]
        for person_id in lost:
            del self._seen_ns[person_id]
        return tuple(sorted(people, key=lambda person: person.person_id))

    def reset(self) -> None:
        """Forget all people; ids continue, so that none is used twice."""
        self._person_ids.clear()
        self._seen_ns.clear()

    def _person_id(self, source_id: str) -> str:
        person_id = self._person_ids.pop(source_id, None)
        if person_id is None:
            self.ids_assigned += 1
            valid = re.sub(r"[^A-Za-z0-9_]", "_", source_id[:_MAX_ID])
            person_id = f"p{self.ids_assigned:05d}_{valid}"
        self._person_ids[source_id] = person_id  # as the newest
        while len(self._person_ids) > _REMEMBERED:
            del self._person_ids[next(iter(self._person_ids))]
        return person_id
