"""Whom the model looks at next."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from emotion_perception.core.values import Track


class Scheduler:
    """New people first, then whoever has waited longest, so that nobody starves."""

    def __init__(self) -> None:
        self._asked_ns: dict[str, int] = {}
        self._turn: dict[str, int] = {}
        self._turns = 0

    def due(self, people: Iterable[Track], stamp_ns: int, refresh: float) -> list[Track]:
        """The people to ask about at this time, the most urgent first.

        Args:
            people: who is in the scene.
            stamp_ns: the scene's time.
            refresh: seconds that must lie between two questions about one person; 0: another
                picture is enough.
        """
        waited = {p.person_id: self._waited_ns(p, stamp_ns) for p in people}
        due = [p for p in people if waited[p.person_id] >= max(refresh * 1e9, 1)]
        # Of those who waited equally long the one whose turn came first goes first; of the new
        # ones, who had none, the nearest.
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
        """Note that these people are being asked about in the scene of this time."""
        for person in people:
            self._turns += 1
            self._asked_ns[person.person_id] = stamp_ns
            self._turn[person.person_id] = self._turns

    def mark_failed(self, people: Iterable[Track]) -> None:
        """Note that there was no answer about these people: they are due again at once."""
        for person in people:
            self._asked_ns.pop(person.person_id, None)

    def retain(self, person_ids: Collection[str]) -> None:
        """Forget everybody else."""
        self._asked_ns = {i: t for i, t in self._asked_ns.items() if i in person_ids}
        self._turn = {i: t for i, t in self._turn.items() if i in person_ids}

    def _waited_ns(self, person: Track, stamp_ns: int) -> float:
        asked = self._asked_ns.get(person.person_id)
        return math.inf if asked is None else stamp_ns - asked
