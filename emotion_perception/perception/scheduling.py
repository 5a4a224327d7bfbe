"""Choose the people whom the recognizer assesses next, and bound how long each of them waits."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from emotion_perception.core.values import Track

MAX_OWN_PAUSE_S = 60.0
"""The longest pause of a person whose own question fails."""

MAX_PAUSE_S = 30.0
"""The longest pause of all people after every question failed."""

_FIRST_PAUSE_S = 0.1

_ROUNDS = 64
"""Rounds of which the longest counts, so that a single stall does not count for ever."""


@dataclass(slots=True)
class _Person:
    """What the scheduler knows about one person. Times are stamps of scenes."""

    visible_since_ns: int | None = None
    """The first of the scenes in a row that show the person; None: not visible."""
    asked_ns: int | None = None
    turn: int = 0
    """The number of the newest question about the person, over all people; 0: none."""
    suspected: bool = False
    """Whether a question about the person, alone or with others, failed since the last answer."""
    failures: int = 0
    """Questions about the person alone that failed since the last answer."""
    not_before_ns: int = 0
    """When a suspect is due again."""
    rest_until_ns: int | None = None
    """Until when a person who was asked about and does not change is not due; None: no rest."""

    def due_since_ns(self, refresh_ns: int) -> float:
        """Return since when the person is due and visible; infinity while not visible."""
        if self.visible_since_ns is None:
            return math.inf
        if self.suspected:
            return max(self.not_before_ns, self.visible_since_ns)
        if self.asked_ns is None:
            return self.visible_since_ns
        rested_ns = self.rest_until_ns or 0
        return max(self.asked_ns + refresh_ns, rested_ns, self.visible_since_ns)


class Scheduler:
    """Chooses the people of each round, so that each person waits a bounded time.

    The bound holds for all failures and arrivals.

    A person waits from being due and visible until a round with this person starts. n is the most
    people visible at once in that interval, b is `scheduler.max_people`, and c is the longest round
    in it, up to the next frame if it fails. Then the wait is at most 4 * ceil(n / b) * c, and the
    pause of all people below if it falls into the interval:

    1. A round that fails does not tell whose question failed: its people become suspects, due at
       once, until they are answered. While both wait, rounds of suspects and of all others take
       turns, so that at least every second round is of the kind of a given person.
    2. Rounds of others have b places. New people, nearest first, and those who have been due
       longest take turns at these places. Those who become due later queue behind, so that the
       n-th place of the second kind is the person's at the latest: 2n places, 2 * ceil(n / b)
       rounds, and 4 * ceil(n / b) with the rounds of suspects between them.
    3. Every second round of suspects asks the one who has been due longest alone, which shows whose
       question fails; the others ask up to b at once, longest due first. So ceil(n / b) of these
       suffice, which are every fourth round at least: again 4 * ceil(n / b).

    The last of these rounds is the person's own, whose start ends the wait; the round that is in
    progress at the beginning takes its place in the sum.

    A person whose question fails alone is due again at once, and from the second failure in a row
    after a pause of their own: 0.1 s, doubled with each failure up to `MAX_OWN_PAUSE_S`. Once this
    is so of all people in view, every question fails: then no person is asked for 0.1 s, doubled
    each time up to `MAX_PAUSE_S`, and the first answer ends the pauses of all people. Pauses are
    counted on the clock of the stamps.

    People who do not change can rest, see `rest`. A person who changes is due from the scene of the
    change on, and queues behind those who were due before. The rest of a person becomes shorter
    with longer rounds, but never longer: who is due remains due until asked, and each person passes
    another at most once. So the bound holds for changes, too.
    """

    def __init__(self) -> None:
        """Start without people."""
        self._people: dict[str, _Person] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all people and pauses."""
        self._people.clear()
        self._turns = 0
        self._newcomer_next = True
        self._suspects_next = self._alone_next = True
        self._outages = 0
        """Pauses in a row."""
        self._paused_until_ns: int | None = None
        self._round_ns = 0
        """The scene of the newest round."""
        self._ended_ns: int | None = None
        """The scene of the first round that ended since the newest scene."""
        self._lengths_ns: deque[int] = deque(maxlen=_ROUNDS)

    def retain(self, person_ids: Collection[str]) -> None:
        """Forget all other people."""
        self._people = {i: p for i, p in self._people.items() if i in person_ids}

    def see(self, visible: Iterable[Track], stamp_ns: int) -> None:
        """Record who is visible in the newest scene; call it for each scene."""
        if self._ended_ns is not None:
            self._lengths_ns.append(stamp_ns - self._ended_ns)
            self._ended_ns = None
        ids = {track.person_id for track in visible}
        for person_id in ids:
            person = self._people.setdefault(person_id, _Person())
            if person.visible_since_ns is None:
                person.visible_since_ns = stamp_ns
        for person_id, person in self._people.items():
            if person_id not in ids:
                person.visible_since_ns = None

    def rest(
        self,
        changed: Collection[str],
        stamp_ns: int,
        refresh_still: float,
        max_age: float,
        max_people: int,
    ) -> None:
        """Let visible people who do not change rest; call it for each scene, after `see`.

        With n visible people, b per round and the longest round c, from its scene to the first
        scene after its answer, they rest for `refresh_still` seconds, at most for `max_age`
        - (1 + ceil(n / b)) * c: the round in progress and those of all people fit in before the
        assessment expires.

        Args:
            changed: The ids of people who changed since their last question.
            stamp_ns: The time of the newest scene.
            refresh_still: Seconds from a question to the next one; 0: no person rests.
            max_age: Seconds after which an assessment expires.
            max_people: The most people in one round.
        """
        visible = {i: p for i, p in self._people.items() if p.visible_since_ns is not None}
        rounds = 1 + math.ceil(len(visible) / max_people)
        spare_ns = round(max_age * 1e9) - rounds * max(self._lengths_ns, default=0)
        rest_ns = max(min(round(refresh_still * 1e9), spare_ns), 0)
        for person_id, person in visible.items():
            if person.asked_ns is not None:
                until_ns = stamp_ns if person_id in changed else person.asked_ns + rest_ns
                if person.rest_until_ns is None or until_ns < person.rest_until_ns:
                    person.rest_until_ns = until_ns

    def next_round(
        self, visible: Sequence[Track], stamp_ns: int, refresh: float, max_people: int
    ) -> list[Track]:
        """Return whom to ask now, and record that they are asked; empty if no person is due.

        Args:
            visible: The people of the newest scene, as given to `see`.
            stamp_ns: The time of the scene.
            refresh: Minimum seconds between two assessments of one person; 0: each new frame.
            max_people: The most people in one round.
        """
        if self._paused_until_ns is not None and stamp_ns < self._paused_until_ns:
            return []
        refresh_ns = max(round(refresh * 1e9), 1)
        since = {t.person_id: self._people[t.person_id].due_since_ns(refresh_ns) for t in visible}
        due = sorted(
            (track for track in visible if since[track.person_id] <= stamp_ns),
            key=lambda t: (since[t.person_id], self._turn(t), -t.box.height, t.person_id),
        )
        suspects = [track for track in due if self._people[track.person_id].suspected]
        others = [track for track in due if not self._people[track.person_id].suspected]
        if suspects and (self._suspects_next or not others):
            chosen = suspects[: 1 if self._alone_next else max_people]
            self._alone_next, self._suspects_next = not self._alone_next, False
        else:
            chosen = self._fill(others, max_people)
            self._suspects_next = True
        chosen.sort(
            key=lambda t: (-self._waited_ns(t, stamp_ns), self._turn(t), -t.box.height, t.person_id)
        )
        for track in chosen:
            person = self._people[track.person_id]
            self._turns += 1
            person.asked_ns, person.turn = stamp_ns, self._turns
            person.not_before_ns, person.rest_until_ns = stamp_ns + 1, None
        self._round_ns = stamp_ns
        return chosen

    def answered(self, person_ids: Collection[str], stamp_ns: int) -> None:
        """Record that these people were assessed; the stamp is that of the newest scene."""
        self._end_round()
        for person_id in person_ids:
            if person := self._people.get(person_id):
                person.suspected, person.failures = False, 0
        if person_ids and self._outages:
            for person in self._people.values():
                person.failures, person.not_before_ns = 0, min(person.not_before_ns, stamp_ns)
            self._outages, self._paused_until_ns = 0, None

    def failed(self, person_ids: Collection[str], stamp_ns: int) -> None:
        """Record that a question about these people failed, at the stamp of the newest scene."""
        self._end_round()
        for person_id in person_ids:
            person = self._people.get(person_id)
            if person is None:
                continue
            person.suspected, person.not_before_ns = True, stamp_ns
            if len(person_ids) == 1:
                person.failures += 1
                person.not_before_ns += _pause_ns(person.failures - 1, MAX_OWN_PAUSE_S)
        visible = [p for p in self._people.values() if p.visible_since_ns is not None]
        if visible and all(person.failures > 1 for person in visible):
            self._outages += 1
            self._paused_until_ns = stamp_ns + _pause_ns(self._outages, MAX_PAUSE_S)

    @property
    def is_paused(self) -> bool:
        """Whether every question failed, and no person is asked for a while."""
        return self._outages > 0

    def _end_round(self) -> None:
        if self._ended_ns is None:
            self._ended_ns = self._round_ns

    def _fill(self, due: list[Track], places: int) -> list[Track]:
        """Return whom of `due`, ordered by since when, to give the places."""
        if len(due) <= places:
            return due
        new = [track for track in due if not self._turn(track)]
        new.sort(key=lambda t: (-t.box.height, t.person_id))
        rest, chosen = list(due), []
        for _ in range(places):
            by_newness = self._newcomer_next and new
            track = new[0] if by_newness else rest[0]
            self._newcomer_next = not by_newness
            chosen.append(track)
            rest.remove(track)
            if track in new:
                new.remove(track)
        return chosen

    def _turn(self, track: Track) -> int:
        return self._people[track.person_id].turn

    def _waited_ns(self, track: Track, stamp_ns: int) -> float:
        person = self._people[track.person_id]
        unanswered = person.asked_ns is None or person.suspected
        return math.inf if unanswered else stamp_ns - (person.asked_ns or 0)


def _pause_ns(number: int, longest_s: float) -> int:
    """Return the nanoseconds of the n-th pause in a row; 0 before the first."""
    return round(min(_FIRST_PAUSE_S * 2 ** min(number - 1, 30), longest_s) * 1e9) if number else 0
