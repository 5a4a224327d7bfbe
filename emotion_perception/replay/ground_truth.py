"""Ground truth of a bag as a table that people fill in, and the scores of a replay against it.

A row states where a person was from when to when, and how the person appeared to feel:

    person,start,end,left,top,right,bottom,labels,valence,arousal,dominance,thumbnail

`start` and `end` are seconds after the first image; without an `end` the row is about the image
nearest to `start`. The box is in pixels and constant: a person who moves has several rows. Without
a box, `person` is a `person_id` of the replay. `labels` are separated by semicolons or commas; an
empty cell repeats the previous row of the person, "-" means unknown.

Spreadsheets may separate the cells by semicolons or tabs, with decimal commas then, and leave out
empty cells at the end of a row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core import documents
from emotion_perception.core.labels import EMOTIC_LABELS, label_array, vad_to_emotic
from emotion_perception.core.values import Box, Estimate, FloatArray, Status, Vad
from emotion_perception.evaluation.run import Run, people_table
from emotion_perception.evaluation.tracking_metrics import match, tracking_metrics
from emotion_perception.io.bags import RecordedImage
from emotion_perception.replay.simulator import LOOKED_AT, Emission

COLUMNS = (
    *("person", "start", "end", "left", "top", "right", "bottom"),
    *("labels", "valence", "arousal", "dominance", "thumbnail"),
)
_REQUIRED = ("person", "start", "labels")
_ONE_CELL = "put all labels into one cell, separated by semicolons"
_BOX, _AFFECT = COLUMNS[3:7], COLUMNS[8:11]
_MAX_DISTANCE_S = 0.05  # from a row without an end to its image


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """One row: a person in an interval."""

    person: str
    start: float
    """Seconds after the first image."""
    end: float
    """Seconds after the first image; equal to `start` if the row is about one image."""
    box: Box | None
    labels: npt.NDArray[np.bool_] | None
    """(26,); None if unknown."""
    vad: Vad | None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The rows of a table."""

    name: str
    fingerprint: str
    rows: tuple[Label, ...]

    @classmethod
    def read(cls, path: Path | str) -> GroundTruth:
        """Read a table.

        Raises:
            ValueError: The file cannot be read, or a row is not valid; the error names it.
        """
        path = Path(path)
        try:
            text = documents.read_text(path)
            rows = tuple(_labels(path, documents.csv_delimiter(text) != ","))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"cannot read {path}: {reason}") from error
        if not rows:
            raise ValueError(f"cannot read {path}: it has no rows")
        return cls(path.name, hashlib.sha256(text.encode()).hexdigest()[:16], rows)


def _labels(path: Path, decimal_comma: bool) -> Iterator[Label]:
    """Yield the rows of a table, whose numbers may have a decimal comma.

    Raises:
        ValueError: A row is not valid; the error names its line.
    """
    rows = documents.csv_rows(path)
    _, names = next(rows, (0, []))
    header = [name.strip().lower() for name in documents.without_empty_end(names)]
    if missing := set(_REQUIRED) - set(header):
        raise ValueError(
            f"it lacks the column {min(missing)!r}; the columns are {', '.join(COLUMNS[:-1])}"
        )
    newest: dict[str, Label] = {}
    for number, cells in rows:
        try:
            if len(documents.without_empty_end(cells)) > len(header):
                raise ValueError(f"it has {len(cells)} cells, not {len(header)}; {_ONE_CELL}")
            values = dict(zip_longest(header, cells[: len(header)], fillvalue=""))
            row = _label(values, newest, decimal_comma)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        previous = newest.get(row.person)
        if previous is not None and row.start < previous.end:
            raise ValueError(
                f"line {number}: the row overlaps the previous row of {row.person}, which ends at "
                f"{previous.end} s; correct start or end"
            )
        newest[row.person] = row
        yield row


def to_csv(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return a table of the known cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _label(cells: dict[str, str], newest: dict[str, Label], decimal_comma: bool) -> Label:
    cells = {name: value.strip() for name, value in cells.items()}
    if decimal_comma:
        for name in (*COLUMNS[1:7], *_AFFECT):
            if name in cells:
                cells[name] = cells[name].replace(",", ".")
    person = cells["person"]
    if not person:
        raise ValueError("person is empty")
    start = _number(cells, "start")
    if start is None:
        raise ValueError("start is empty: expected seconds after the first image")
    end = _number(cells, "end")
    if end is not None and end < start:
        raise ValueError(f"end = {end} is before start = {start}")
    box = _several(cells, _BOX)
    if box and (box[2] <= box[0] or box[3] <= box[1]):
        raise ValueError(f"the box {box} is empty: right and bottom must exceed left and top")
    vad = _several(cells, _AFFECT)
    if vad and not all(-1 <= value <= 1 for value in vad):
        raise ValueError(f"{', '.join(_AFFECT)} = {vad}: expected values from -1 to 1")
    previous = newest.get(person)
    labels = (
        _parse_labels(cells["labels"]) if cells["labels"] else previous.labels if previous else None
    )
    return Label(
        person=person,
        start=start,
        end=start if end is None else end,
        box=Box(*box) if box else None,
        labels=labels,
        vad=Vad(*vad) if vad else previous.vad if previous and not cells["labels"] else None,
    )


def _parse_labels(cell: str) -> npt.NDArray[np.bool_] | None:
    if cell == "-":
        return None
    return label_array([name.strip() for name in re.split("[;,]", cell) if name.strip()])


def _number(cells: dict[str, str], name: str) -> float | None:
    text = cells.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = f"; {_ONE_CELL}" if text.lower() in EMOTIC_LABELS else ""
        raise ValueError(f"{name} = {text!r} is not a number{hint}")
    return value


def _several(cells: dict[str, str], names: Sequence[str]) -> list[float] | None:
    values = [_number(cells, name) for name in names]
    known = [value for value in values if value is not None]
    if known and len(known) < len(names):
        raise ValueError(f"fill in all of {', '.join(names)}, or none of them")
    return known or None


@dataclass(slots=True, eq=False)
class _Image:
    """An image that the node looked at, with the people it tracked."""

    seconds: float
    """After the first image of the bag."""
    stamp_ns: int
    boxes: dict[str, Box] = field(default_factory=dict)
    """`person_id` to box."""
    answers: list[tuple[Estimate, int]] = field(default_factory=list)
    """New assessments of people in this image, each with the number of people in its message."""


class GroundTruthScorer:
    """Collects a replay while it happens, and compares it with the ground truth at the end.

    In each image, tracks are matched to the people of the table by the overlap of their boxes.
    """

    def __init__(
        self, labels: GroundTruth, start_ns: int, known: Sequence[str], thresholds: FloatArray
    ) -> None:
        """Create a scorer.

        Args:
            labels: The ground truth.
            start_ns: Arrival of the first image, on the recorder's clock.
            known: The labels of the recognizer.
            thresholds: (L,) their thresholds.
        """
        self._labels, self._start_ns = labels, start_ns
        self._known, self._thresholds = tuple(known), thresholds
        self._images: list[_Image] = []
        self._by_stamp: dict[int, _Image] = {}
        self._answered: dict[str, int] = {}
        self._model = self._calibration = ""

    def on_image(self, image: RecordedImage, outcome: str) -> None:
        """Add an image with its outcome."""
        if outcome == LOOKED_AT and image.frame is not None:
            seconds = (image.received_ns - self._start_ns) / 1e9
            added = _Image(seconds, image.frame.stamp_ns)
            self._images.append(added)
            self._by_stamp[added.stamp_ns] = added

    def add(self, emission: Emission) -> None:
        """Add a message."""
        people = emission.people
        self._model, self._calibration = people.model, people.calibration
        image = self._by_stamp[people.stamp_ns]
        image.boxes = {e.track.person_id: e.track.box for e in people.people}
        for estimate in people.people:
            name, assessed_ns = estimate.track.person_id, estimate.assessed_ns
            is_new = estimate.scores is not None and self._answered.get(name) != assessed_ns
            if is_new and assessed_ns in self._by_stamp:
                self._answered[name] = assessed_ns
                self._by_stamp[assessed_ns].answers.append((estimate, len(people.people)))

    def figures(self, folder: Path) -> dict[str, Any]:
        """Return the figures, ready for JSON, and write a run for `compare` into the folder.

        Raises:
            ValueError: No row is about an image of the replay.
        """
        truth = self._truth()
        if not any(truth):
            raise ValueError(
                f"cannot compare with {self._labels.name}: no row of it is about an image that was "
                "replayed; start and end are seconds after the first image"
            )
        labelled = [(i, t) for i, t in zip(self._images, truth, strict=True) if t]
        with_box = [{n: r.box for n, r in t.items() if r.box} for _, t in labelled]
        figures: dict[str, Any] = {
            "file": self._labels.name,
            "images": len(labelled),
            "people": len({name for _, t in labelled for name in t}),
        }
        if any(with_box):
            boxes = dict(enumerate(with_box))
            tracking = tracking_metrics(boxes, {n: i.boxes for n, (i, _) in enumerate(labelled)})
            figures |= {
                "detection_recall": tracking.detection_recall,
                "identity_f1": tracking.identity_f1,
                "identity_switches": tracking.identity_switches,
            }
        rows, leading = self._answers(labelled, with_box)
        figures |= {"answers": len(rows), "answers_with_a_true_leading_label": leading}
        if rows:
            figures["measures"] = Run(self._manifest(), people_table(rows)).write(folder)
        return figures

    def _truth(self) -> list[dict[str, Label]]:
        """Return the rows about each image, by person."""
        truth: list[dict[str, Label]] = [{} for _ in self._images]
        seconds = np.array([image.seconds for image in self._images])
        if not len(seconds):
            return truth
        for row in self._labels.rows:
            if row.end > row.start:
                images = np.flatnonzero((seconds >= row.start) & (seconds <= row.end))
            else:
                distance = np.abs(seconds - row.start)
                nearest = (distance == distance.min()) & (distance <= _MAX_DISTANCE_S)
                images = np.flatnonzero(nearest)[:1]
            for number in images:
                truth[number].setdefault(row.person, row)
        return truth

    def _answers(
        self, labelled: Sequence[tuple[_Image, dict[str, Label]]], boxes: Sequence[dict[str, Box]]
    ) -> tuple[list[dict[str, Any]], int]:
        """Return the rows of the run, and the number of answers with a true leading label."""
        rows, leading = [], 0
        for (image, truth), true_boxes in zip(labelled, boxes, strict=True):
            matches = match(true_boxes, image.boxes) if true_boxes else {}
            for estimate, people in image.answers:
                name = estimate.track.person_id
                row = truth.get(matches.get(name, name))
                if row is None or row.labels is None or (row.box and name not in matches):
                    continue
                label = estimate.label
                leading += label in EMOTIC_LABELS and bool(row.labels[EMOTIC_LABELS.index(label)])
                rows.append(self._row(image, row, estimate, people))
        return rows, leading

    def _row(self, image: _Image, row: Label, estimate: Estimate, people: int) -> dict[str, Any]:
        assert row.labels is not None
        assert estimate.scores is not None
        scores = dict(zip(self._known, map(float, estimate.scores), strict=True))
        return {
            "key": f"{row.person}@{image.stamp_ns}",
            "truth": row.labels.tolist(),
            "vad_truth": None if row.vad is None else list(vad_to_emotic(row.vad)),
            "scores": [scores.get(label, 0.0) for label in EMOTIC_LABELS],
            "vad": None if estimate.vad is None else list(vad_to_emotic(estimate.vad)),
            "words": estimate.rationale,
            "reason": estimate.reason if estimate.status is Status.ABSTAINED else "",
            "people": people,
            "height": estimate.track.box.height,
        }

    def _manifest(self) -> dict[str, Any]:
        thresholds = dict(zip(self._known, map(float, self._thresholds), strict=True))
        return {
            "system": "replay",
            "recognizer": self._model,
            "calibration": self._calibration,
            "split": self._labels.name,
            "data": self._labels.fingerprint,
            "labels": list(self._known),
            "known": [label for label in EMOTIC_LABELS if label in self._known],
            "thresholds": [thresholds.get(label) for label in EMOTIC_LABELS],
        }
