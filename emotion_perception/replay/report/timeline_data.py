"""Collect what happens during a replay, thinned so that an hour fits on a page.

The data are kept by time on the recorder's clock: an estimate per person and bin, some hundred
moments with an image, and counts. Memory grows with the number of people, not with the length of
the bag.
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

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Estimate, FloatArray, Frame, PeopleEstimate, Status, Vad
from emotion_perception.io.bags import RecordedImage
from emotion_perception.perception.privacy import FaceBlur
from emotion_perception.replay.simulator import LOOKED_AT, OUTCOMES, Emission

BINS = 900
"""Maximum number of bins; each is about a pixel wide on a page."""
MOMENTS = 480
"""Maximum number of moments with an image."""
_MAX_BYTES = 9_000_000  # of all images; as text in a page they take a third more
_FEW_IMAGES, _LARGE, _SMALL = 150, 640, 400  # pixels: a bag of at most 150 images gets large ones
_MAX_STEP_NS = 10**9  # longer pauses between two messages count as one second
_MAX_ARRIVALS = 20_000  # stamps with a known time of arrival: ten minutes of a fast camera


@dataclass(frozen=True, slots=True)
class Moment:
    """The estimates at one time, with the image."""

    time_ns: int
    people: PeopleEstimate
    jpeg: bytes
    """The image, smaller than the frame."""


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
    """One person from the first message to the last."""

    person_id: str
    first_ns: int
    last_ns: int
    bins: dict[int, BinState] = field(default_factory=dict)


class Timeline:
    """Collects a replay while it happens."""

    def __init__(self, start_ns: int, end_ns: int, images: int) -> None:
        """Create an empty timeline.

        Args:
            start_ns: First time of the replayed part of the bag.
            end_ns: Its last time.
            images: Approximate number of images.
        """
        self.start_ns, self.end_ns = start_ns, max(end_ns, start_ns + 1)
        length_ns = self.end_ns - self.start_ns
        bins = max(1, min(BINS, images))
        self.bin_ns = -(-length_ns // bins)
        self.labels: tuple[str, ...] = ()
        self.model = self.calibration = ""
        self.track_spans: dict[str, TrackSpan] = {}
        self.moments: list[Moment] = []
        self.outcomes: Counter[str] = Counter()
        self.outcomes_by_bin: Counter[tuple[int, str]] = Counter()
        self.messages = 0
        self.clock_jumps = 0
        """How often the clock of the camera was set back, so that all tracks were dropped."""
        self.seconds = dict.fromkeys(Status, 0.0)
        """Person-seconds spent in each status."""
        self.answers: list[tuple[float, float]] = []
        """Per new assessment: its time, and the delay since its image arrived, in seconds."""
        self.ages = array("f")
        """Age in seconds of the current assessment, per message and person."""
        self.blur = FaceBlur(Settings())
        """Makes the images of the moments."""
        self._side = _LARGE if images <= _FEW_IMAGES else _SMALL
        self._spacing_ns = length_ns // MOMENTS
        self._next_moment_ns = start_ns
        self._received: dict[int, int] = {}
        self._answered: dict[str, int] = {}
        self._newest: Emission | None = None

    def on_image(self, image: RecordedImage, outcome: str) -> None:
        """Add an image with its outcome."""
        self.outcomes[outcome] += 1
        self.outcomes_by_bin[self._bin(image.received_ns), outcome] += 1
        if outcome == LOOKED_AT and image.frame is not None:
            self._received[image.frame.stamp_ns] = image.received_ns
            if len(self._received) > _MAX_ARRIVALS:
                del self._received[next(iter(self._received))]

    def add(self, emission: Emission) -> None:
        """Add a message."""
        people = emission.people
        self.messages += 1
        self.end_ns = max(self.end_ns, emission.time_ns)  # the last answers may come after the bag
        self.labels, self.model, self.calibration = people.labels, people.model, people.calibration
        if self._newest is not None:
            self.clock_jumps += people.stamp_ns < self._newest.people.stamp_ns
            elapsed = min(max(emission.time_ns - self._newest.time_ns, 0), _MAX_STEP_NS) / 1e9
            for estimate in self._newest.people.people:
                self.seconds[Status(estimate.status)] += elapsed
        self._newest = emission
        for estimate in people.people:
            self._note(estimate, emission)
        self._look(emission)

    @property
    def length_s(self) -> float:
        """Seconds from the first to the last time."""
        return (self.end_ns - self.start_ns) / 1e9

    def at(self, time_ns: int) -> float:
        """Return the seconds after the first time."""
        return (time_ns - self.start_ns) / 1e9

    def figures(self) -> dict[str, Any]:
        """Return the figures that need no ground truth, ready for JSON."""
        total = sum(self.seconds.values())
        shares = {s.name: round(self.seconds[s] / total, 4) if total else None for s in Status}
        return {
            "images": sum(self.outcomes.values()),
            "fates": {
                outcome: self.outcomes[outcome] for outcome in OUTCOMES if self.outcomes[outcome]
            },
            "clock_jumps": self.clock_jumps,
            "messages": self.messages,
            "people": len(self.track_spans),
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

    def _note(self, estimate: Estimate, emission: Emission) -> None:
        name, now_ns = estimate.track.person_id, emission.time_ns
        track_span = self.track_spans.get(name)
        if track_span is None:
            track_span = self.track_spans[name] = TrackSpan(name, now_ns, now_ns)
        track_span.last_ns = now_ns
        track_span.bins[self._bin(now_ns)] = BinState(
            Status(estimate.status), estimate.label, estimate.active, estimate.scores, estimate.vad
        )
        if estimate.status is not Status.ASSESSED:
            return
        self.ages.append((emission.people.stamp_ns - estimate.assessed_ns) / 1e9)
        if self._answered.get(name) != estimate.assessed_ns:
            self._answered[name] = estimate.assessed_ns
            received_ns = self._received.get(estimate.assessed_ns)
            if received_ns is not None:
                self.answers.append((self.at(now_ns), (now_ns - received_ns) / 1e9))

    def _look(self, emission: Emission) -> None:
        newest = self.moments[-1] if self.moments else None
        if newest is not None and newest.people.stamp_ns == emission.people.stamp_ns:
            self.moments[-1] = replace(newest, people=emission.people)  # with a new assessment
            return
        if emission.time_ns < self._next_moment_ns:
            return
        frame = self.blur.frame(emission.frame, [e.track.box for e in emission.people.people])
        self.moments.append(Moment(emission.time_ns, emission.people, _jpeg(frame, self._side)))
        self._next_moment_ns = max(self._next_moment_ns, emission.time_ns) + self._spacing_ns
        size = sum(len(moment.jpeg) for moment in self.moments)
        if size > _MAX_BYTES or len(self.moments) > MOMENTS:
            self.moments = self.moments[::2]
            self._spacing_ns = max(2 * self._spacing_ns, 1)

    def steps(self, track_span: TrackSpan) -> Iterator[tuple[float, float, BinState]]:
        """Yield the bins of a person: start and end in seconds, and the estimate.

        Bins without a message between others are a gap, unless the gap is at most twice as long as
        the median distance of bins: a camera may be slower than one image per bin.
        """
        numbers = sorted(track_span.bins)
        if not numbers:
            return
        width = self.bin_ns / 1e9
        strides = [b - a for a, b in pairwise(numbers)]
        usual = sorted(strides)[len(strides) // 2] if strides else 1
        for number, stride in zip(numbers, [*strides, 1], strict=True):
            held_for = stride if stride <= 2 * usual else 1
            end = min((number + held_for) * width, self.length_s)
            yield number * width, end, track_span.bins[number]


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
    """Return minimum, median, 95th percentile and maximum; None if there are no values."""
    if not len(values):
        return None
    low, middle, high = np.percentile(np.asarray(values, float), (0, 50, 95))
    names = ("minimum", "median", "percentile_95", "maximum")
    numbers = (low, middle, high, np.max(values))
    return {name: round(float(x), 4) for name, x in zip(names, numbers, strict=True)}
