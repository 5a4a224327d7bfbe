"""What is true during a bag, as a table that people fill in, and a replay measured against it.

A row says who was where from when to when, and what they seemed to feel:

    person,start,end,left,top,right,bottom,labels,valence,arousal,dominance,thumbnail

`start` and `end` are seconds after the beginning of the bag; without an `end` the row is about the
image nearest to `start`. The box is in pixels and holds all the while: a person who moves has
several rows. Without a box `person` is an id of the replay itself. `labels` are separated by
semicolons; an empty cell repeats the person's row before, "-" means unknown.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC_LABELS, label_array, vad_to_emotic
from emotion_perception.core.values import Box, Estimate, FloatArray, Status, Vad
from emotion_perception.evaluation.run import Run, people_table
from emotion_perception.evaluation.tracking_metrics import MIN_IOU, match, tracking_metrics
from emotion_perception.io.bags import RecordedImage
from emotion_perception.replay.simulator import LOOKED_AT, Emission

COLUMNS = (
    *("person", "start", "end", "left", "top", "right", "bottom"),
    *("labels", "valence", "arousal", "dominance", "thumbnail"),
)
_NEEDED = {"person", "start", "labels"}
_BOX, _AFFECT = COLUMNS[3:7], COLUMNS[8:11]
_NEAREST = 0.05  # seconds from a row without an end to its image, at most


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """One row: a person in an interval."""

    person: str
    start: float
    """Seconds after the beginning of the bag."""
    end: float
    """The same as `start`: the row is about one image."""
    box: Box | None
    labels: npt.NDArray[np.bool_] | None
    """(26,); None if unknown."""
    vad: Vad | None


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """A file of rows."""

    name: str
    fingerprint: str
    rows: tuple[Label, ...]

    @classmethod
    def read(cls, path: Path | str) -> GroundTruth:
        """Read a table.

        Raises:
            ValueError: the file cannot be read, or a row is wrong; the message names it.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        reader = csv.DictReader(text.splitlines())
        if lacking := _NEEDED - set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} lacks the column {min(lacking)!r}: expected {', '.join(COLUMNS[:-1])}"
            )
        rows: list[Label] = []
        newest: dict[str, Label] = {}
        for cells in reader:
            try:
                row = _label(cells, newest)
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
            before = newest.get(row.person)
            if before is not None and row.start < before.end:
                raise ValueError(
                    f"{path}, line {reader.line_num}: {row.person} is there already until "
                    f"{before.end} s; rows of one person follow each other"
                )
            newest[row.person] = row
            rows.append(row)
        if not rows:
            raise ValueError(f"{path} holds no rows")
        return cls(path.name, hashlib.sha256(text.encode()).hexdigest()[:16], tuple(rows))


def write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """A file to fill in, from the cells that are known; returns the number of rows.

    Raises:
        FileExistsError: it is there, perhaps filled in already.
    """
    count = 0
    with path.open("x", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def _label(cells: dict[str, Any], newest: dict[str, Label]) -> Label:
    if None in cells or None in cells.values():
        raise ValueError("it has more or fewer cells than the first line")
    cells = {name: value.strip() for name, value in cells.items()}
    person = cells["person"]
    if not person:
        raise ValueError("person is empty")
    start = _number(cells, "start")
    if start is None:
        raise ValueError("start is empty: seconds after the beginning of the bag")
    end = _number(cells, "end")
    if end is not None and end < start:
        raise ValueError(f"end = {end} lies before start = {start}")
    box = _several(cells, _BOX)
    if box and (box[2] <= box[0] or box[3] <= box[1]):
        raise ValueError(f"the box {box} is empty: right and bottom lie beyond left and top")
    vad = _several(cells, _AFFECT)
    if vad and not all(-1 <= value <= 1 for value in vad):
        raise ValueError(f"{', '.join(_AFFECT)} = {vad}: each lies in -1 to 1")
    before = newest.get(person)
    labels = _names(cells["labels"]) if cells["labels"] else before.labels if before else None
    return Label(
        person=person,
        start=start,
        end=start if end is None else end,
        box=Box(*box) if box else None,
        labels=labels,
        vad=Vad(*vad) if vad else before.vad if before and not cells["labels"] else None,
    )


def _names(cell: str) -> npt.NDArray[np.bool_] | None:
    if cell == "-":
        return None
    return label_array([name.strip() for name in cell.split(";") if name.strip()])


def _number(cells: dict[str, str], name: str) -> float | None:
    text = cells.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} = {text!r} is no number")
    return value


def _several(cells: dict[str, str], names: Sequence[str]) -> list[float] | None:
    values = [_number(cells, name) for name in names]
    given = [value for value in values if value is not None]
    if given and len(given) < len(names):
        raise ValueError(f"give all of {', '.join(names)} or none")
    return given or None


@dataclass(slots=True, eq=False)
class _Image:
    """What is true of an image that the node looked at, and what it found."""

    seconds: float
    stamp_ns: int
    found: dict[str, Box] = field(default_factory=dict)
    answers: list[tuple[Estimate, int]] = field(default_factory=list)
    """New ones, about people as they were in this image, with the number of people in it."""


class GroundTruthScorer:
    """Takes in a replay as it happens, and measures it once it is over.

    People found are those of the table whose boxes they overlap best, image by image.
    """

    def __init__(
        self, labels: GroundTruth, start_ns: int, known: Sequence[str], thresholds: FloatArray
    ) -> None:
        """Create a scorer.

        Args:
            labels: the ground truth.
            start_ns: the beginning of the bag, on the clock of the recorder.
            known: the labels of the recognizer.
            thresholds: (L,) their thresholds.
        """
        self._labels, self._start_ns = labels, start_ns
        self._known, self._thresholds = tuple(known), thresholds
        self._images: list[_Image] = []
        self._of_stamp: dict[int, _Image] = {}
        self._answered: dict[str, int] = {}
        self._model = self._calibration = ""

    def on_image(self, image: RecordedImage, outcome: str) -> None:
        """An image arrived, and this becomes of it."""
        if outcome == LOOKED_AT and image.frame is not None:
            seconds = (image.received_ns - self._start_ns) / 1e9
            one = _Image(seconds, image.frame.stamp_ns)
            self._images.append(one)
            self._of_stamp[one.stamp_ns] = one

    def add(self, said: Emission) -> None:
        """A message was published."""
        people = said.people
        self._model, self._calibration = people.model, people.calibration
        image = self._of_stamp[people.stamp_ns]
        image.found = {e.track.person_id: e.track.box for e in people.people}
        for estimate in people.people:
            name, looked_ns = estimate.track.person_id, estimate.assessed_ns
            new = estimate.scores is not None and self._answered.get(name) != looked_ns
            if new and looked_ns in self._of_stamp:
                self._answered[name] = looked_ns
                self._of_stamp[looked_ns].answers.append((estimate, len(people.people)))

    def measured(self, folder: Path) -> dict[str, Any]:
        """The figures, ready for JSON. A run for `compare` is written into the folder.

        Raises:
            ValueError: no row is about an image of the replay.
        """
        truth = self._truth()
        if not any(truth):
            raise ValueError(
                f"no row of {self._labels.name} is about an image that was replayed: start and "
                "end are seconds after the beginning of the bag"
            )
        labelled = [(i, t) for i, t in zip(self._images, truth, strict=True) if t]
        with_box = [{n: r.box for n, r in t.items() if r.box} for _, t in labelled]
        found: dict[str, Any] = {
            "file": self._labels.name,
            "images": len(labelled),
            "people": len({name for _, t in labelled for name in t}),
        }
        if any(with_box):
            boxes = dict(enumerate(with_box))
            kept = tracking_metrics(boxes, {n: i.found for n, (i, _) in enumerate(labelled)})
            found |= {
                "detection_recall": kept.detection_recall,
                "identity_f1": kept.identity_f1,
                "identity_switches": kept.identity_switches,
            }
        rows, leading = self._answers(labelled, with_box)
        found |= {"answers": len(rows), "answers_with_a_true_leading_label": leading}
        if rows:
            found["measures"] = Run(self._about(), people_table(rows)).write(folder)
        return found

    def _truth(self) -> list[dict[str, Label]]:
        """For each image who is known to be there."""
        found: list[dict[str, Label]] = [{} for _ in self._images]
        seconds = np.array([image.seconds for image in self._images])
        if not len(seconds):
            return found
        for row in self._labels.rows:
            if row.end > row.start:
                about = np.flatnonzero((seconds >= row.start) & (seconds <= row.end))
            else:
                away = np.abs(seconds - row.start)
                about = np.flatnonzero((away == away.min()) & (away <= _NEAREST))[:1]
            for number in about:
                found[number].setdefault(row.person, row)
        return found

    def _answers(
        self, labelled: Sequence[tuple[_Image, dict[str, Label]]], boxes: Sequence[dict[str, Box]]
    ) -> tuple[list[dict[str, Any]], int]:
        rows, leading = [], 0
        for (image, truth), places in zip(labelled, boxes, strict=True):
            who = match(places, image.found, MIN_IOU) if places else {}
            for estimate, people in image.answers:
                name = estimate.track.person_id
                row = truth.get(who.get(name, name))
                if row is None or row.labels is None or (row.box and name not in who):
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

    def _about(self) -> dict[str, Any]:
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
