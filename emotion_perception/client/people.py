"""The people in view as a planner needs them: newest estimates, ages, events, distress.

Nothing here needs ROS: `EmotionClient` feeds it with messages and times, and so can a program that
reads a bag.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from emotion_perception.core.values import Estimate, PeopleEstimate, Status

DISTRESS = ("anger", "disquietment", "fear", "pain", "sadness", "sensitivity", "suffering")
"""The EMOTIC labels whose definitions say that a person is afraid, hurt, unhappy or agitated."""
NEGATIVE_VALENCE = -0.3
"""Valence (-1 to 1) at most which, with `AGITATED_AROUSAL`, counts as distress without a label."""
AGITATED_AROUSAL = 0.2
_LEAVE_SHARE = 0.8  # of the threshold of a label: below it, the label ends

T = TypeVar("T")


class NodeStatus(enum.Enum):
    """What a planner can expect of the node; the last four are those of its messages."""

    ABSENT = "absent"
    """No node publishes on the topic."""
    SILENT = "silent"
    """A node publishes on the topic, but no message arrives in the time that it promises."""
    INACTIVE = "inactive"
    LIVE = "live"
    CAMERA_SILENT = "camera silent"
    DETECTOR_FAILED = "detector failed"


@dataclass(frozen=True, slots=True)
class Levels:
    """The hysteresis of one label: its score rises above `enter`, and falls to `leave` or less."""

    enter: float
    leave: float

    def __post_init__(self) -> None:
        if not 0 <= self.leave <= self.enter < 1:
            raise ValueError(
                f"cannot use the levels enter={self.enter:g} and leave={self.leave:g}: "
                "expected 0 <= leave <= enter < 1"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One person in view at the time of the query."""

    estimate: Estimate
    """The newest estimate; EXPIRED while the node is silent."""
    labels: tuple[str, ...]
    """The labels of the scores."""
    age_s: float
    """Seconds since the exposure of the assessed image; infinite without an assessment."""

    @property
    def person_id(self) -> str:
        """The id, which is unique in a run of the node."""
        return self.estimate.track.person_id

    def score(self, label: str) -> float | None:
        """Return the smoothed probability of a label, 0..1; None unless ASSESSED.

        Raises:
            ValueError: The recognizer has no such label; the message names its labels.
        """
        index = _index_of(label, self.labels)
        if self.estimate.status is not Status.ASSESSED or self.estimate.scores is None:
            return None
        return float(self.estimate.scores[index])


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The status of the node changed."""

    before: NodeStatus
    after: NodeStatus


@dataclass(frozen=True, slots=True)
class Appeared:
    """A person came into view."""

    person: Person


@dataclass(frozen=True, slots=True)
class Left:
    """A person is no longer in view, or the node started again or is gone."""

    person: Person
    """As last reported."""


@dataclass(frozen=True, slots=True)
class LabelChanged:
    """The leading label of a person changed and lasted; "" stands for no label."""

    person: Person
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ScoreChanged:
    """A watched score of a person crossed its level and stayed there.

    A score that is not known (PENDING, ABSTAINED, EXPIRED) is not above.
    """

    person: Person
    label: str
    above: bool


Event = StatusChanged | Appeared | Left | LabelChanged | ScoreChanged


@dataclass(slots=True)
class _Lasting(Generic[T]):
    """A value that changes only when another one has lasted."""

    value: T
    _next: T | None = None
    _since_ns: int = 0

    def take(self, new: T, at_ns: int, hold_ns: int) -> bool:
        """Return whether the value changed to `new`, which lasted for `hold_ns`."""
        if new == self.value:
            self._next = None
            return False
        if new != self._next:
            self._next, self._since_ns = new, at_ns
        if at_ns - self._since_ns < hold_ns:
            return False
        self.value, self._next = new, None
        return True


@dataclass(slots=True)
class _Record:
    """What is remembered of one person."""

    estimate: Estimate
    label: _Lasting[str] = field(default_factory=lambda: _Lasting(""))
    above: dict[str, _Lasting[bool]] = field(default_factory=dict)
    distressed_since_ns: int | None = None
    """The stamp of the first assessment of the distress that goes on."""


class CurrentPeople:
    """Holds the people in view, and tells what changes with each message.

    All times are nanoseconds on one clock of the caller, which runs as fast as the camera's clock
    but may have another origin.
    """

    def __init__(
        self,
        watch: Mapping[str, Levels | None] | None = None,
        hold_s: float = 1.0,
        distress: Collection[str] | None = None,
    ) -> None:
        """Start without people.

        Args:
            watch: The labels whose scores cause `ScoreChanged`, each with its levels; None: enter
                above the label's threshold in the message, leave at 0.8 times the threshold.
            hold_s: Seconds that a change of label or score must last before it is an event,
                measured between the assessed images: one assessment is never enough unless 0.
            distress: The labels that count as distress when they lead; None: those of `DISTRESS`
                that the recognizer has, and negative, agitated affect.
        """
        self._watch = dict(watch or {})
        self._hold_ns = round(hold_s * 1e9)
        self._distress = frozenset(DISTRESS if distress is None else distress)
        self._by_default = distress is None
        self._records: dict[str, _Record] = {}
        self._stamp_arrived_ns = 0
        self.newest: PeopleEstimate | None = None
        """The newest message: its stamp, the frame_id of its camera, its labels."""
        self.status = NodeStatus.ABSENT
        self.lost = 0
        """Number of messages that were published but not received."""

    def update(self, people: PeopleEstimate, arrived_ns: int) -> list[Event]:
        """Take a message, and return what changed.

        Args:
            people: The message.
            arrived_ns: When it arrived.

        Raises:
            ValueError: A label of `watch` or `distress` is not among the labels of the message, or
                needs levels because the message has no thresholds.
        """
        if not self._by_default:
            for label in self._distress:
                _index_of(label, people.labels)
        levels = {label: self._levels(label, people) for label in self._watch}
        events, before = self._change_status(NodeStatus[people.source_status.name]), self.newest
        restarted = before is None or _is_new_run(before, people)
        if restarted:
            events += self._all_leave(arrived_ns)
        elif before is not None and before.sequence:
            self.lost += max(people.sequence - before.sequence - 1, 0)
        if restarted or before is None or people.stamp_ns != before.stamp_ns:
            self._stamp_arrived_ns = arrived_ns
        present = {estimate.track.person_id: estimate for estimate in people.people}
        gone = [i for i in self._records if i not in present]
        events += [Left(self._person(self._records.pop(i), arrived_ns)) for i in gone]
        self.newest = people
        for person_id, estimate in present.items():
            record = self._records.get(person_id)
            if record is None:
                record = self._records[person_id] = _Record(estimate)
                events.append(Appeared(self._person(record, arrived_ns)))
            record.estimate = estimate
            events += self._changes(record, levels, arrived_ns)
        return events

    def miss(self, exists: bool, now_ns: int) -> list[Event]:
        """Note that no message arrives, and return what changed.

        Estimates do not hold any longer. People leave when the node is gone.

        Args:
            exists: Whether a node still publishes on the topic.
            now_ns: The time.
        """
        if not exists:
            return self._change_status(NodeStatus.ABSENT) + self._all_leave(now_ns)
        if self.status is NodeStatus.INACTIVE:
            return []  # a deactivated node promises no messages
        events = self._change_status(NodeStatus.SILENT)
        if self.newest is not None:
            levels = {label: self._levels(label, self.newest) for label in self._watch}
            for record in self._records.values():
                record.estimate = _expired(record.estimate)
                events += self._changes(record, levels, now_ns)
        return events

    def people(self, now_ns: int) -> dict[str, Person]:
        """Return the people in view by `person_id`."""
        return {i: self._person(record, now_ns) for i, record in self._records.items()}

    def distressed(self, now_ns: int, for_s: float = 2.0, max_age_s: float = 3.0) -> list[Person]:
        """Return the people who appear distressed, and have for a while.

        A person appears distressed in an assessment whose leading label is one of `DISTRESS`, or
        whose valence is at most -0.3 with an arousal of at least 0.2; if `distress` was passed,
        whose leading label is one of these. Each assessment during `for_s` must say so. A person
        who is not ASSESSED is not distressed.

        It is a hint that a person may want attention. It is not a measure of suffering, no
        diagnosis, and no alarm: the model sees appearance only and is often wrong.

        Args:
            now_ns: The time.
            for_s: Seconds between the first assessed image of the distress and the newest one;
                with more than 0, at least two assessments are needed.
            max_age_s: Maximum age of the newest assessment in seconds. Choose it above the time
                that the model takes for a round.

        Raises:
            ValueError: The messages have neither a label of distress nor valence and arousal.
        """
        if self.newest is not None:
            self._require_distress(self.newest)
        return [
            self._person(record, now_ns)
            for record in self._records.values()
            if record.distressed_since_ns is not None
            and record.estimate.assessed_ns - record.distressed_since_ns >= for_s * 1e9
            and self._age_s(record.estimate, now_ns) <= max_age_s
        ]

    def _change_status(self, status: NodeStatus) -> list[Event]:
        before, self.status = self.status, status
        return [StatusChanged(before, status)] if status is not before else []

    def _all_leave(self, now_ns: int) -> list[Event]:
        left: list[Event] = [Left(person) for person in self.people(now_ns).values()]
        self._records.clear()
        return left

    def _changes(
        self, record: _Record, levels: Mapping[str, Levels], now_ns: int
    ) -> Iterator[Event]:
        """Yield what lasting changes the estimate of a person brings."""
        estimate, person = record.estimate, self._person(record, now_ns)
        is_assessed = estimate.status is Status.ASSESSED
        if not self._looks_distressed(estimate):
            record.distressed_since_ns = None
        elif record.distressed_since_ns is None:
            record.distressed_since_ns = estimate.assessed_ns
        # The same assessment in many messages is one observation; without one, time goes on.
        at_ns = estimate.assessed_ns if is_assessed else self._camera_ns(now_ns)
        before = record.label.value
        if record.label.take(estimate.label, at_ns, self._hold_ns):
            yield LabelChanged(person, before, estimate.label)
        for label, level in levels.items():
            above = record.above.setdefault(label, _Lasting(False))
            score = person.score(label)
            new = score is not None and score > (level.leave if above.value else level.enter)
            if above.take(new, at_ns, self._hold_ns):
                yield ScoreChanged(person, label, new)

    def _looks_distressed(self, estimate: Estimate) -> bool:
        if estimate.status is not Status.ASSESSED:
            return False
        vad = estimate.vad if self._by_default else None
        is_upset = (
            vad is not None and vad.valence <= NEGATIVE_VALENCE and vad.arousal >= AGITATED_AROUSAL
        )
        return is_upset or estimate.label in self._distress

    def _require_distress(self, people: PeopleEstimate) -> None:
        assessed = [e for e in people.people if e.status is Status.ASSESSED]
        has_vad = any(estimate.vad is not None for estimate in assessed)
        if assessed and not has_vad and self._distress.isdisjoint(people.labels):
            raise ValueError(
                f"cannot tell distress: {people.model!r} gives no valence and arousal, and none of "
                f"the labels {', '.join(sorted(self._distress))}; pass some of its labels as "
                f"`distress`: {', '.join(people.labels)}"
            )

    def _person(self, record: _Record, now_ns: int) -> Person:
        assert self.newest is not None
        return Person(record.estimate, self.newest.labels, self._age_s(record.estimate, now_ns))

    def _camera_ns(self, now_ns: int) -> int:
        """Return the time on the camera's clock: the newest stamp plus the time since it came."""
        stamp_ns = self.newest.stamp_ns if self.newest is not None else 0
        return stamp_ns + max(now_ns - self._stamp_arrived_ns, 0)

    def _age_s(self, estimate: Estimate, now_ns: int) -> float:
        if not estimate.assessed_ns:
            return math.inf
        return (self._camera_ns(now_ns) - estimate.assessed_ns) / 1e9

    def _levels(self, label: str, people: PeopleEstimate) -> Levels:
        index, levels = _index_of(label, people.labels), self._watch[label]
        if levels is not None:
            return levels
        if people.thresholds is None:
            raise ValueError(
                f"cannot watch {label!r} without levels: the messages have no thresholds; "
                f"pass watch={{{label!r}: Levels(enter, leave)}}"
            )
        threshold = float(people.thresholds[index])
        return Levels(threshold, _LEAVE_SHARE * threshold)


def _index_of(label: str, labels: tuple[str, ...]) -> int:
    try:
        return labels.index(label)
    except ValueError:
        raise ValueError(
            f"{label!r} is not a label of the recognizer: {', '.join(labels) or 'it has none'}"
        ) from None


def _is_new_run(before: PeopleEstimate, people: PeopleEstimate) -> bool:
    """Return whether a message is of another run, or of a recording that begins again."""
    begins_again = 0 < people.sequence <= before.sequence
    return people.run_id != before.run_id or begins_again


def _expired(estimate: Estimate) -> Estimate:
    return Estimate(estimate.track, Status.EXPIRED, "the node is silent", estimate.assessed_ns)
