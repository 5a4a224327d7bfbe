"""What models said during a replay, a line each, so that a killed one need not ask again.

A replay asks the same questions in the same order every time. So the lines of one that was killed
are the answers to the first questions of the next, and only the rest is computed.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.interfaces import Detector, Recognizer
from emotion_perception.core.values import (
    Assessment,
    Detections,
    FloatArray,
    Frame,
    Scene,
    Track,
    Vad,
)


class Journal:
    """A file of answers, first read and then written. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open the journal.

        Raises:
            OSError: the file cannot be opened.
        """
        self._path = path
        self._file: BinaryIO = path.open("a+b")
        self._file.seek(0)
        self._reading = True
        self.remembered = 0
        """How many answers were read instead of computed."""
        self.detecting: list[float] = []
        """Seconds that each picture took, those remembered included."""
        self.assessing: dict[int, list[float]] = defaultdict(list)
        """Number of people to the seconds that each question about so many took."""

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def next(self, key: list[Any]) -> dict[str, Any] | None:
        """The answer to this question from a replay before; None if it is to be computed.

        Raises:
            ValueError: the file holds the answer to another question.
        """
        if not self._reading:
            return None
        place = self._file.tell()
        line = self._file.readline()
        if not line.endswith(b"\n"):  # the end, or half a line of a killed replay
            self._file.truncate(place)
            self._reading = False
            return None
        try:
            record: dict[str, Any] = json.loads(line)
            there = record["asked"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self._path} is damaged ({error!r}): remove it") from error
        if there != key:
            raise ValueError(
                f"{self._path} answers {there} where {key} is asked: it is of another replay, or "
                "was computed on another machine; remove it"
            )
        self.remembered += 1
        return record

    def keep(self, record: dict[str, Any]) -> None:
        """Write an answer down, at once."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()


class JournaledDetector:
    """A detector whose boxes are remembered."""

    def __init__(self, detector: Detector, journal: Journal) -> None:
        self._detector, self._journal = detector, journal

    def detect(self, frame: Frame) -> Detections:
        """Return the stored detections, or detect and store them."""
        key = ["boxes", frame.stamp_ns]
        record = self._journal.next(key)
        if record is None:
            began = time.perf_counter()
            boxes = self._detector.detect(frame)
            record = {
                "asked": key,
                "boxes": np.asarray(boxes.corners, float).tolist(),
                "confidence": np.asarray(boxes.confidence, float).tolist(),
                "seconds": round(time.perf_counter() - began, 6),
            }
            self._journal.keep(record)
        self._journal.detecting.append(record["seconds"])
        return Detections.from_lists(record["boxes"], record["confidence"])

    def close(self) -> None:
        """Close the detector."""
        self._detector.close()


class JournaledRecognizer:
    """A recognizer whose answers are remembered."""

    def __init__(self, recognizer: Recognizer, journal: Journal) -> None:
        self._recognizer, self._journal = recognizer, journal
        self.name: str = recognizer.name
        self.labels: tuple[str, ...] = recognizer.labels
        self.thresholds: FloatArray = recognizer.thresholds
        self.calibration: str = recognizer.calibration

    def warm_up(self) -> None:
        """Warm up the recognizer."""
        self._recognizer.warm_up()

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return the stored assessments, or assess and store them."""
        key = ["people", scene.frame.stamp_ns, *(person.person_id for person in people)]
        record = self._journal.next(key)
        if record is None:
            record = self._ask(key, scene, people)
            self._journal.keep(record)
        if "failed" in record:
            raise RecognizerError(record["failed"])
        self._journal.assessing[len(people)].append(record["seconds"])
        return [
            _answer(person, scene.frame.stamp_ns, said)
            for person, said in zip(people, record["said"], strict=True)
        ]

    def _ask(self, key: list[Any], scene: Scene, people: Sequence[Track]) -> dict[str, Any]:
        began = time.perf_counter()
        try:
            answers = self._recognizer.assess(scene, people)
        except RecognizerError as error:
            return {"asked": key, "failed": str(error)}
        seconds = round(time.perf_counter() - began, 6)
        return {"asked": key, "said": [_said(answer) for answer in answers], "seconds": seconds}

    def close(self) -> None:
        """Close the recognizer."""
        self._recognizer.close()


def _said(answer: Assessment) -> dict[str, Any]:
    return {
        "scores": None if answer.scores is None else np.asarray(answer.scores, float).tolist(),
        "vad": None if answer.vad is None else [float(value) for value in answer.vad],
        "rationale": answer.rationale,
        "reason": answer.reason,
    }


def _answer(person: Track, stamp_ns: int, said: dict[str, Any]) -> Assessment:
    return Assessment(
        person.person_id,
        stamp_ns,
        None if said["scores"] is None else np.asarray(said["scores"], np.float64),
        None if said["vad"] is None else Vad(*said["vad"]),
        said["rationale"],
        said["reason"],
    )
