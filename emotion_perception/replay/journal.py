"""Store what the models return during a replay, so that an interrupted replay resumes.

A replay asks the same questions in the same order each time. The stored lines of an interrupted
replay are therefore the answers to the first questions of the next one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from emotion_perception.core.documents import are_numbers
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
from emotion_perception.io.line_file import LineFile
from emotion_perception.perception.output_checks import checked_assessments


class Journal:
    """A file with one result per line, which is first read and then extended. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open the journal; nothing is read yet."""
        self._file = LineFile(path)
        self._stored: Iterator[Any] = self._file.read()
        self.remembered = 0
        """Number of results that were read instead of computed."""
        self.detecting: list[float] = []
        """Seconds per image, including stored results."""
        self.assessing: dict[int, list[float]] = defaultdict(list)
        """Number of people in a round to the seconds of each such round."""

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def next(self, key: list[Any]) -> dict[str, Any] | None:
        """Return the stored result for this key; None if it has to be computed.

        Raises:
            ValueError: The next stored result has another key, or the file is damaged.
        """
        try:
            record = next(self._stored, None)
        except ValueError as error:
            raise self._damaged(error.__cause__ or error) from error
        if record is None:
            return None
        if not isinstance(record, dict) or "asked" not in record:
            raise self._damaged("a line is not a result")
        if record["asked"] != key:
            raise ValueError(
                f"cannot resume: {self._file.path} holds {record['asked']} instead of {key}, from "
                "another replay or another machine; remove the file"
            )
        if reason := _why_unusable(record):
            raise self._damaged(reason)
        self.remembered += 1
        return record

    def _damaged(self, reason: object) -> ValueError:
        return ValueError(
            f"cannot resume: {self._file.path} is damaged ({reason}); remove the file"
        )

    def keep(self, record: dict[str, Any]) -> None:
        """Write a result at once.

        Raises:
            OSError: It cannot be written.
        """
        self._file.append(record)


class JournaledDetector:
    """A detector whose detections are stored."""

    def __init__(self, detector: Detector, journal: Journal) -> None:
        self._detector, self._journal = detector, journal

    def detect(self, frame: Frame) -> Detections:
        """Return the stored detections, or detect and store them."""
        key = ["boxes", frame.stamp_ns]
        record = self._journal.next(key)
        if record is None:
            start = time.perf_counter()
            boxes = self._detector.detect(frame)
            record = {
                "asked": key,
                "boxes": np.asarray(boxes.corners, float).tolist(),
                "confidence": np.asarray(boxes.confidence, float).tolist(),
                "seconds": round(time.perf_counter() - start, 6),
            }
            self._journal.keep(record)
        self._journal.detecting.append(record["seconds"])
        return Detections.from_lists(record["boxes"], record["confidence"])

    def close(self) -> None:
        """Close the detector."""
        self._detector.close()


class JournaledRecognizer:
    """A recognizer whose assessments are stored."""

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
        """Return the stored assessments, or assess and store them.

        Raises:
            RecognizerError: The question failed, or an assessment is wrong.
        """
        key = ["people", scene.frame.stamp_ns, *(person.person_id for person in people)]
        record = self._journal.next(key)
        if record is None:
            record = self._ask(key, scene, people)
            self._journal.keep(record)
        if "failed" in record:
            raise RecognizerError(record["failed"])
        self._journal.assessing[len(people)].append(record["seconds"])
        return [
            _assessment(person, scene.frame.stamp_ns, values)
            for person, values in zip(people, record["said"], strict=True)
        ]

    def _ask(self, key: list[Any], scene: Scene, people: Sequence[Track]) -> dict[str, Any]:
        start = time.perf_counter()
        try:
            answer = self._recognizer.assess(scene, people)
            assessments, wrong = checked_assessments(answer, scene, people, len(self.labels))
            if wrong:
                raise RecognizerError(next(iter(wrong.values())))
        except RecognizerError as error:
            return {"asked": key, "failed": str(error)}
        seconds = round(time.perf_counter() - start, 6)
        return {"asked": key, "said": [_values(a) for a in assessments], "seconds": seconds}

    def close(self) -> None:
        """Close the recognizer."""
        self._recognizer.close()


def _why_unusable(record: dict[str, Any]) -> str:
    """Return what is wrong with the values of a stored result; empty if nothing is.

    NaN is allowed: the pipeline refuses it where it comes from the model, too.
    """
    if record.keys() == {"asked", "failed"}:
        return "" if isinstance(record["failed"], str) else "failed is not a text"
    if not are_numbers([record.get("seconds")], 0, 1e9):
        return f"seconds = {record.get('seconds')!r}"
    if "boxes" in record:
        boxes, confidence = record["boxes"], record.get("confidence")
        if not isinstance(boxes, list) or not all(are_numbers(b, -1e9, 1e9, 4) for b in boxes):
            return "boxes is not a list of four numbers each"
        if not are_numbers(confidence, 0, 1, len(boxes)):
            return "confidence is not a number from 0 to 1 for each box"
        return ""
    assessments, people = record.get("said"), len(record["asked"]) - 2
    if not isinstance(assessments, list) or len(assessments) != people:
        return f"it does not hold {people} assessments"
    for values in assessments:
        if not isinstance(values, dict) or values.keys() != _VALUES:
            return f"an assessment does not have {', '.join(sorted(_VALUES))}"
        for name, low, count in (("scores", 0, None), ("vad", -1, 3)):
            if values[name] is not None and not are_numbers(values[name], low, 1, count):
                return f"{name} are not numbers from {low} to 1"
        if not isinstance(values["rationale"], str | None) or not isinstance(values["reason"], str):
            return "rationale or reason is not a text"
    return ""


_VALUES = {"scores", "vad", "rationale", "reason"}


def _values(assessment: Assessment) -> dict[str, Any]:
    return {
        "scores": None
        if assessment.scores is None
        else np.asarray(assessment.scores, float).tolist(),
        "vad": None if assessment.vad is None else [float(value) for value in assessment.vad],
        "rationale": assessment.rationale,
        "reason": assessment.reason,
    }


def _assessment(person: Track, stamp_ns: int, values: dict[str, Any]) -> Assessment:
    return Assessment(
        person.person_id,
        stamp_ns,
        None if values["scores"] is None else np.asarray(values["scores"], np.float64),
        None if values["vad"] is None else Vad(*values["vad"]),
        values["rationale"],
        values["reason"],
    )
