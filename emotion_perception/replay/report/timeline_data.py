"""What happened during a replay, thinned so that an hour still fits on a page.

Everything is kept by its time on the recorder's clock: for each person a value for each of some
hundred bins, some hundred moments with their pictures, and counts. It grows with the number of
people, not with the length of the bag.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import Estimate, FloatArray, Frame, PeopleEstimate, Status, Vad
from emotion_perception.io.bags import RecordedImage
from emotion_perception.replay.simulator import OUTCOMES, Emission

BINS = 900
"""Of the whole time, at most: about a pixel of a page each."""
MOMENTS = 480
"""With a picture, at most."""
_PICTURES = 9_000_000  # bytes of all of them; as text in a page they take a third more
_FEW, _LARGE, _SMALL = 150, 640, 400  # up to so many moments have pictures of so many pixels
_PAUSE_NS = 10**9  # longer ones, between two messages, count as so long
_REMEMBERED = 20_000  # stamps whose time of arrival is known: ten minutes of a fast camera


@dataclass(frozen=True, slots=True)
class Moment:
    """Something to look at."""

    time_ns: int
    people: PeopleEstimate
    picture: bytes
    """A JPEG, smaller than the frame."""


@dataclass(frozen=True, slots=True)
class BinState:
    """The estimate of a person at the end of a bin."""

    status: Status
    label: str
    active: tuple[str, ...]
    scores: FloatArray | None
    vad: Vad | None


@dataclass(slots=True)
class TrackSpan:
    """One person, from the first message to the last."""

    person_id: str
    first_ns: int
    last_ns: int
    bins: dict[int, BinState] = field(default_factory=dict)


class Timeline:
    """Takes in a replay as it happens."""

    def __init__(self, start_ns: int, end_ns: int, images: int) -> None:
        """Create an empty timeline.

        Args:
            start_ns: the beginning of the replayed part of the bag.
            end_ns: its end.
            images: the approximate number of images.
        """
        self.start_ns, self.end_ns = start_ns, max(end_ns, start_ns + 1)
        span = self.end_ns - self.start_ns
        bins = max(1, min(BINS, images))
        self.bin_ns = -(-span // bins)
        self.labels: tuple[str, ...] = ()
        self.model = self.calibration = ""
        self.lives: dict[str, TrackSpan] = {}
        self.moments: list[Moment] = []
        self.fates: Counter[str] = Counter()
        self.fates_by_bin: Counter[tuple[int, str]] = Counter()
        self.messages = 0
        self.seconds = dict.fromkeys(Status, 0.0)
        """Person-seconds spent in each status."""
        self.answers: list[tuple[float, float]] = []
        """When each answer about a person came, and how long after its image, seconds."""
        self.ages = array("f")
        """Of the answers in force, once a message and person, seconds."""
        self._side = _LARGE if images <= _FEW else _SMALL
        self._spacing_ns = span // MOMENTS
        self._next_moment_ns = start_ns
        self._received: dict[int, int] = {}
        self._answered: dict[str, int] = {}
        self._newest: Emission | None = None

    def on_image(self, image: RecordedImage, outcome: str) -> None:
        """An image arrived, and this becomes of it."""
        self.fates[outcome] += 1
        self.fates_by_bin[self._bin(image.received_ns), outcome] += 1
        if image.frame is not None:
            self._received[image.frame.stamp_ns] = image.received_ns
            if len(self._received) > _REMEMBERED:
                del self._received[next(iter(self._received))]

    def add(self, said: Emission) -> None:
        """A message was published."""
        people = said.people
        self.messages += 1
        self.end_ns = max(self.end_ns, said.time_ns)  # the last answers may come after the bag
        self.labels, self.model, self.calibration = people.labels, people.model, people.calibration
        if self._newest is not None:
            elapsed = min(max(said.time_ns - self._newest.time_ns, 0), _PAUSE_NS) / 1e9
            for estimate in self._newest.people.people:
                self.seconds[Status(estimate.status)] += elapsed
        self._newest = said
        for estimate in people.people:
            self._note(estimate, said)
        self._look(said)

    @property
    def span(self) -> float:
        """Seconds from the beginning to the end."""
        return (self.end_ns - self.start_ns) / 1e9

    def at(self, time_ns: int) -> float:
        """Seconds after the beginning."""
        return (time_ns - self.start_ns) / 1e9

    def figures(self) -> dict[str, Any]:
        """What can be said without knowing what is true, ready for JSON."""
        total = sum(self.seconds.values())
        shares = {s.name: round(self.seconds[s] / total, 4) if total else None for s in Status}
        return {
            "images": sum(self.fates.values()),
            "fates": {outcome: self.fates[outcome] for outcome in OUTCOMES if self.fates[outcome]},
            "messages": self.messages,
            "people": len(self.lives),
            "person_seconds": round(total, 3),
            "share_by_status": shares,
            "share_without_answer": (
                round(1 - self.seconds[Status.ASSESSED] / total, 4) if total else None
            ),
            "answers": len(self.answers),
            "answer_latency_seconds": _spread([latency for _, latency in self.answers]),
            "answer_age_seconds": _spread(self.ages),
        }

    def _bin(self, time_ns: int) -> int:
        return max(0, time_ns - self.start_ns) // self.bin_ns

    def _note(self, estimate: Estimate, said: Emission) -> None:
        name, now_ns = estimate.track.person_id, said.time_ns
        life = self.lives.get(name)
        if life is None:
            life = self.lives[name] = TrackSpan(name, now_ns, now_ns)
        life.last_ns = now_ns
        life.bins[self._bin(now_ns)] = BinState(
            Status(estimate.status), estimate.label, estimate.active, estimate.scores, estimate.vad
        )
        if estimate.status is not Status.ASSESSED:
            return
        self.ages.append((said.people.stamp_ns - estimate.assessed_ns) / 1e9)
        if self._answered.get(name) != estimate.assessed_ns:
            self._answered[name] = estimate.assessed_ns
            received_ns = self._received.get(estimate.assessed_ns)
            if received_ns is not None:
                self.answers.append((self.at(now_ns), (now_ns - received_ns) / 1e9))

    def _look(self, said: Emission) -> None:
        newest = self.moments[-1] if self.moments else None
        if newest is not None and newest.people.stamp_ns == said.people.stamp_ns:
            self.moments[-1] = replace(newest, people=said.people)  # an answer about it came
            return
        if said.time_ns < self._next_moment_ns:
            return
        self.moments.append(Moment(said.time_ns, said.people, _jpeg(said.frame, self._side)))
        self._next_moment_ns = max(self._next_moment_ns, said.time_ns) + self._spacing_ns
        size = sum(len(moment.picture) for moment in self.moments)
        if size > _PICTURES or len(self.moments) > MOMENTS:
            self.moments = self.moments[::2]
            self._spacing_ns = max(2 * self._spacing_ns, 1)

    def steps(self, life: TrackSpan) -> Iterator[tuple[float, float, BinState]]:
        """Return the bins of a person: begin and end in seconds, and the estimate.

        Bins without a message, between others, are gaps unless they are shorter than a bin or two:
        a camera need not be as fast as the page is fine.
        """
        numbers = sorted(life.bins)
        if not numbers:
            return
        width = self.bin_ns / 1e9
        strides = [b - a for a, b in pairwise(numbers)]
        usual = sorted(strides)[len(strides) // 2] if strides else 1
        for number, stride in zip(numbers, [*strides, 1], strict=True):
            held_for = stride if stride <= 2 * usual else 1
            end = min((number + held_for) * width, self.span)
            yield number * width, end, life.bins[number]


def _jpeg(frame: Frame, side: int) -> bytes:
    scale = min(side / max(frame.width, frame.height), 1.0)
    size = (max(round(frame.width * scale), 1), max(round(frame.height * scale), 1))
    image: npt.NDArray[Any] = frame.image
    if scale < 1:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    quality = 80 if side == _LARGE else 65
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _spread(values: Any) -> dict[str, float] | None:
    """Median and extremes of some numbers; None of nothing."""
    if not len(values):
        return None
    low, middle, high = np.percentile(np.asarray(values, float), (0, 50, 95))
    names = ("minimum", "median", "percentile_95", "maximum")
    found = (low, middle, high, np.max(values))
    return {name: round(float(x), 4) for name, x in zip(names, found, strict=True)}
