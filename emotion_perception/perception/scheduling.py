"""Choose the people whom the recognizer assesses next."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from emotion_perception.core.values import Track


class Scheduler:
    """Put new people first, then those who have waited longest: each person gets a turn."""

    def __init__(self) -> None:
        """Start without people."""
        self._asked_ns: dict[str, int] = {}
        self._turn: dict[str, int] = {}
        self._turns = 0

    def due(self, people: Iterable[Track], stamp_ns: int, refresh: float) -> list[Track]:
        """Return the people who are due at this time, the most urgent first.

        Args:
            people: the people of the scene.
            stamp_ns: the time of the scene.
            refresh: minimum seconds between two assessments of one person; 0: each new frame.
        """
        waited = {p.person_id: self._waited_ns(p, stamp_ns) for p in people}
        due = [p for p in people if waited[p.person_id] >= max(refresh * 1e9, 1)]
        # Equal waits are ordered by the previous turn; new people, who had none, by nearness.
        return sorted(
            due,
            key=lambda p: (
                -waited[p.person_id],
                self._turn.get(p.person_id, 0),
                -p.box.height,
                p.person_id,
            ),
        )

    def mark_asked(self, people: Iterable[Track], stamp_ns: int) -> None:
        """Record that these people are assessed in the scene of this time."""
        for person in people:
            self._turns += 1
            self._asked_ns[person.person_id] = stamp_ns
            self._turn[person.person_id] = self._turns

    def mark_failed(self, people: Iterable[Track]) -> None:
        """Record that these people got no assessment: they are due again at once."""
        for person in people:
            self._asked_ns.pop(person.person_id, None)

    def retain(self, person_ids: Collection[str]) -> None:
        """Forget all other people."""
        self._asked_ns = {i: t for i, t in self._asked_ns.items() if i in person_ids}
        self._turn = {i: t for i, t in self._turn.items() if i in person_ids}

    def _waited_ns(self, person: Track, stamp_ns: int) -> float:
        last_ns = self._asked_ns.get(person.person_id)
        return math.inf if last_ns is None else stamp_ns - last_ns
