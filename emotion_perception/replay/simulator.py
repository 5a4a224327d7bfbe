"""Simulate what the node would have published about a bag, in one thread and simulated time.

Images arrive at the times at which they were recorded. An image that arrives while another is
processed waits, and is replaced by the next. A round takes its latency, and no other round starts
before it ends. The speed of this computer does not matter: two replays give the same messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emotion_perception.core import documents
from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.reasons import ReasonCounter
from emotion_perception.core.values import Frame, PeopleEstimate
from emotion_perception.io.bags import RecordedImage
from emotion_perception.perception.pipeline import TOO_SOON, Pipeline, Round
from emotion_perception.perception.stamps import LATE, REPEATED

LOOKED_AT, TOO_SLOW = "looked at", "replaced by a newer one"
NOT_WANTED, UNREADABLE = TOO_SOON, "unreadable"
OUTCOMES = (LOOKED_AT, TOO_SLOW, NOT_WANTED, UNREADABLE, REPEATED, LATE)
"""What happens to an image in a replay."""

_MAX_LATENCY_S = 3600.0
_MAX_PEOPLE = 10_000


class Emission(NamedTuple):
    """A message of the node, with its time."""

    time_ns: int
    """The publication time, on the clock of the recorder."""
    people: PeopleEstimate
    frame: Frame
    """The newest frame at that time."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The latencies of a machine; by default there are none."""

    answers: tuple[tuple[int, float], ...] = ((1, 0.0),)
    """Number of people in a round, ascending, and seconds of the round."""
    image: float = 0.0
    """Seconds of everything before a round, mainly detection."""

    @classmethod
    def read(cls, text: str) -> Latency:
        """Read seconds per round, or a file that `replay` wrote on another machine.

        The file is JSON: `{"image_seconds": 0.03, "answer_seconds": {"1": 0.4, "4": 0.9}}`.

        Raises:
            ValueError: It is neither, or a time is negative or not finite.
        """
        try:
            latency = cls(((1, float(text)),))
        except ValueError:
            latency = cls._from_file(Path(text))
        times = [latency.image, *(seconds for _, seconds in latency.answers)]
        if not all(0 <= time <= _MAX_LATENCY_S for time in times):
            raise ValueError(f"cannot use --latency {text}: choose 0 to {_MAX_LATENCY_S:g} seconds")
        return latency

    @classmethod
    def _from_file(cls, path: Path) -> Latency:
        try:
            content = documents.read_json_object(path)
            answers = sorted((int(n), float(x)) for n, x in content["answer_seconds"].items())
            latency = cls(tuple(answers), float(content.get("image_seconds", 0.0)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"cannot use --latency {path}: it is neither seconds nor a file with image_seconds "
                f"and answer_seconds ({type(error).__name__}: {error})"
            ) from error
        counts = [people for people, _ in answers]
        if not (counts and 1 <= counts[0] <= counts[-1] <= _MAX_PEOPLE):
            raise ValueError(
                f"cannot use --latency {path}: answer_seconds needs a time for 1 or more people, "
                f"at most {_MAX_PEOPLE}"
            )
        if len(set(counts)) < len(counts):
            raise ValueError(f"cannot use --latency {path}: it has a number of people twice")
        return latency

    def answer(self, people: int) -> float:
        """Return the seconds of a round with this many people, interpolated or extrapolated."""
        counts, seconds = zip(*self.answers, strict=True)
        if people <= counts[-1]:
            return float(np.interp(people, counts, seconds))
        if len(counts) == 1:
            return float(seconds[0])
        further = (seconds[-1] - seconds[-2]) / (counts[-1] - counts[-2])
        return float(seconds[-1] + max(further, 0.0) * (people - counts[-1]))

    @property
    def at_once(self) -> bool:
        """Whether rounds take no time."""
        return all(seconds == 0 for _, seconds in self.answers)


class Simulator:
    """Run a `Pipeline` on the simulated clock of a bag."""

    def __init__(
        self,
        perception: Pipeline,
        recognizer: Recognizer,
        latency: Latency | None = None,
        on_image: Callable[[RecordedImage, str], None] = lambda image, outcome: None,
    ) -> None:
        """Create a simulator.

        Args:
            perception: The pipeline.
            recognizer: Assesses people.
            latency: The latencies of the simulated machine.
            on_image: Called with each image and its outcome, one of `OUTCOMES`, before the messages
                about it.
        """
        self._perception, self._recognizer = perception, recognizer
        self._latency = latency or Latency()
        self._on_image = on_image
        self.failures = ReasonCounter()
        """Rounds without assessments: reason to number."""
        self._free_ns = self._now_ns = self._arrived_ns = 0
        perception.since_arrival_ns = lambda: self._now_ns - self._arrived_ns
        self._open: tuple[int, Round] | None = None
        """The round in progress, and when it ends."""

    def run(self, images: Iterable[RecordedImage]) -> Iterator[Emission]:
        """Yield each message that the node would have published, in order."""
        for sequence, emission in enumerate(self._emissions(images), 1):
            yield emission._replace(people=replace(emission.people, sequence=sequence))

    def _emissions(self, images: Iterable[RecordedImage]) -> Iterator[Emission]:
        for image, following in _with_next(images):
            begin_ns = max(image.received_ns, self._free_ns)
            yield from self._answers(begin_ns)
            begin_ns = max(begin_ns, self._free_ns)
            outcome = self._outcome(image, following, begin_ns)
            self._on_image(image, outcome)
            if outcome == LOOKED_AT:
                yield from self._look(image, begin_ns)
        if self._open is not None:
            yield from self._answers(self._open[0], ask_on=False)

    def _outcome(self, image: RecordedImage, following: RecordedImage | None, begin_ns: int) -> str:
        if image.frame is None:
            return UNREADABLE
        waited = begin_ns > image.received_ns
        if waited and following is not None and following.received_ns <= begin_ns:
            return TOO_SLOW
        return self._perception.why_skipped(image.frame.stamp_ns) or LOOKED_AT

    def _look(self, image: RecordedImage, begin_ns: int) -> Iterator[Emission]:
        frame, before = image.frame, self._perception.scene
        assert frame is not None
        if before is not None and frame.stamp_ns < before.frame.stamp_ns:
            self._open = None  # the clock was set back: the round is about dropped tracks
        self._arrived_ns = begin_ns
        self._free_ns = self._now_ns = begin_ns + round(self._latency.image * 1e9)
        yield Emission(self._free_ns, self._perception.on_frame(frame), frame)
        if self._open is None:
            yield from self._ask(self._free_ns)

    def _ask(self, now_ns: int) -> Iterator[Emission]:
        while (question := self._perception.next_round()) is not None:
            if not self._latency.at_once:
                seconds = self._latency.answer(len(question.people))
                self._open = now_ns + round(seconds * 1e9), question
                return
            answered = self._answer(question, now_ns)
            if answered is None:
                return  # no further round before the next image
            yield answered

    def _answers(self, until_ns: int, ask_on: bool = True) -> Iterator[Emission]:
        """Yield the messages of rounds that end until then, each followed by the next round."""
        while self._open is not None and self._open[0] <= until_ns:
            (due_ns, question), self._open = self._open, None
            now_ns = max(due_ns, self._free_ns)
            answered = self._answer(question, now_ns)
            if answered is None:
                return
            yield answered
            if ask_on:
                yield from self._ask(now_ns)

    def _answer(self, question: Round, now_ns: int) -> Emission | None:
        self._now_ns = now_ns
        try:
            answer = self._recognizer.assess(question.scene, question.people)
            people = self._perception.on_assessments(answer)
        except RecognizerError as error:
            self.failures.count(str(error))
            self._perception.on_failure(question, str(error))
            return None
        for reason in self._perception.wrong_answers.values():
            self.failures.count(reason)
        assert self._perception.scene is not None
        return Emission(now_ns, people, self._perception.scene.frame)


def _with_next(
    images: Iterable[RecordedImage],
) -> Iterator[tuple[RecordedImage, RecordedImage | None]]:
    """Yield each image with the next one."""
    rest = iter(images)
    image = next(rest, None)
    while image is not None:
        following = next(rest, None)
        yield image, following
        image = following
