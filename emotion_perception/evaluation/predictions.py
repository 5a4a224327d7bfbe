"""Evaluate the predictions of another program, read from files.

The file of predictions contains one JSON object per line:

    {"image": "mscoco/COCO_val2014_000000562243_0.jpg", "text": "Happiness, peace."}
    {"image": "mscoco/COCO_val2014_000000562243_1.jpg", "scores": {"happiness": 0.8, ...}}

`scores` may also be a list of 26 numbers in alphabetical order of the labels. The ground truth is a
split of the data set, or a CSV file as the authors of the paper publish theirs: without a header,
with an image key and a Python list of lower-case labels per row; labels may also be separated by
commas or semicolons in their cell, and cells by semicolons. Their `gt_all.csv` holds the
people of train, val and test in this order; 937 keys occur twice in it, most of them with other
labels, because train and val share images.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from emotion_perception.core import documents
from emotion_perception.core.labels import EMOTIC_LABELS, label_array, named_in
from emotion_perception.evaluation import runner
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run, people_table
from emotion_perception.evaluation.system_run import OUT, Log, log_dropped, log_numbering
from emotion_perception.io import run_folder
from emotion_perception.io.run_folder import short_hash

Rows = dict[str, dict[str, Any]]
"""Image key of a person to columns of the table of a run: of predictions `scores`, `words` and
`reason`; of the ground truth `truth` and, if it is known, `vad_truth`, `people` and `height`."""

LabelRows = list[tuple[str, list[bool]]]
"""Image key and (26,) labels of each row of a file of labels; a key may occur more than once."""

ROWS_BY_SPLIT = {"train": (1, 23_706), "val": (23_707, 27_039), "test": (27_040, 34_314)}
"""The first and last row of each split in the authors' `gt_all.csv`, counted from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionsOptions:
    """The options of `emotion-perception evaluate predictions`."""

    file: Path
    """The predictions."""
    labels: Path | None = None
    """The ground truth as a CSV file. Exactly one of `labels` and `root` is set."""
    rows: tuple[int, int] | None = None
    """Use only these rows of `labels`: first and last, counted from 1."""
    last_row_wins: bool = False
    """Use the last row of a person who occurs with different labels, instead of refusing."""
    root: Path | None = None
    """The folder of the data set, for the ground truth."""
    split: str | None = None
    """With `root`, the split of the data set; default: test. With `labels`, only the rows of this
    split, which must be those of the authors' file."""
    as_in_paper: bool = False
    """Extract labels from texts as substrings, as in the paper, instead of as whole words."""
    subset: bool = False
    """Evaluate the people that have both a prediction and ground truth, instead of refusing."""
    out: Path | None = None
    """The run folder; default: one in `OUT` with the name of the file."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or OUT / self.file.stem


def evaluate_predictions(options: PredictionsOptions, log: Log = print) -> Run:
    """Evaluate predictions, write the run, and log which people are left out.

    Raises:
        ValueError: An option or a file is not allowed, or the files are about different people.
    """
    if (options.labels is None) == (options.root is None):
        raise ValueError(
            "cannot evaluate predictions: pass either --labels FILE or the --root of the data set"
        )
    if options.root and (options.rows or options.last_row_wins):
        raise ValueError(
            "cannot use --rows or --last-row-wins: they have no effect with --root; remove them"
        )
    with run_folder.hold(options.folder):
        return _evaluate(options, log)


def _evaluate(options: PredictionsOptions, log: Log) -> Run:
    manifest: dict[str, Any] = {}
    data = None
    predictions = read_predictions(options.file)
    if options.labels:
        label_rows = select_rows(read_labels(options.labels), options)
        used = predictions.keys() if options.subset else {key for key, _ in label_rows}
        truth = merge_rows(label_rows, used, options.last_row_wins, log)
    else:
        assert options.root is not None
        data = emotic.load(options.root, options.split or "test", require_images=False)
        truth = runner.ground_truth(data)
        manifest = {"dropped": dict(data.dropped), "missing": 0}
        log_numbering(data, log)
    if options.subset:
        counts = (len(predictions), len(truth))
        predictions, truth = select_common_people(predictions, truth)
        without_truth, without_prediction = (count - len(truth) for count in counts)
        manifest["predictions_without_truth"] = without_truth
        manifest["dropped"] = {**manifest.get("dropped", {}), "no prediction": without_prediction}
        log(f"{without_truth} predictions are left out: no ground truth")
    log_dropped(manifest.get("dropped", {}), log)
    if data is None:
        assert options.labels is not None
        split = " ".join(filter(None, (options.labels.name, options.split)))
        manifest |= {"split": split, "data": short_hash(truth)}
    else:
        manifest |= {"split": data.split, "data": data.fingerprint(truth.keys())}
    run = score_predictions(predictions, truth, options.file.stem, options.as_in_paper)
    run = Run({**run.manifest, **manifest}, run.table)
    run.write(options.folder)
    return run


def read_labels(path: Path | str) -> LabelRows:
    """Read the rows of a CSV file of ground truth.

    Raises:
        ValueError: The file cannot be read or is empty, a line does not have the format above, or a
            label does not exist.
    """
    rows: LabelRows = []
    number = 1
    try:
        for number, row in documents.csv_rows(path):
            cells = documents.without_empty_end(row, 2)
            if number == 1 and len(cells) > 1 and _is_header(cells[1]):
                continue
            rows.append(_parse_labels(cells))
    except OSError as error:
        raise _reading_error(path, error) from error
    except ValueError as error:
        raise ValueError(
            f"cannot read {path}: line {number} is not a key with a list of labels: {error}"
        ) from error
    if not rows:
        raise ValueError(f"cannot read {path}: it contains no people")
    return rows


def select_rows(rows: LabelRows, options: PredictionsOptions) -> LabelRows:
    """Return the rows that the options select: of a split of the authors' file, or of a range.

    Raises:
        ValueError: The file does not have the rows of the authors' file, or not these rows.
    """
    if options.split is None and options.rows is None:
        return rows
    if options.split and options.rows:
        raise ValueError("cannot use --split and --rows together: both select rows; remove one")
    total = ROWS_BY_SPLIT["test"][1]
    if options.split and options.split not in ROWS_BY_SPLIT:
        raise ValueError(
            f"cannot use --split {options.split}: choose one of {', '.join(ROWS_BY_SPLIT)}"
        )
    if options.split and len(rows) != total:
        raise ValueError(
            f"cannot select --split {options.split} by position: {options.labels} has {len(rows)} "
            f"people and the authors' file has {total}; remove --split, or pass --rows FIRST-LAST"
        )
    first, last = options.rows or ROWS_BY_SPLIT[options.split or ""]
    if not 1 <= first <= last <= len(rows):
        raise ValueError(
            f"cannot use --rows {first}-{last}: {options.labels} has the rows 1 to {len(rows)}"
        )
    return rows[first - 1 : last]


def merge_rows(rows: LabelRows, used: Collection[str], last_row_wins: bool, log: Log) -> Rows:
    """Return the ground truth by key, and log how many of the used keys occur more than once.

    Raises:
        ValueError: A used key occurs with different labels, and `last_row_wins` is not set.
    """
    truth: Rows = {}
    repeated: dict[str, bool] = {}  # to whether its labels differ
    for key, labels in rows:
        if key in truth and key in used:
            repeated[key] = repeated.get(key, False) or truth[key]["truth"] != labels
        truth[key] = {"truth": labels}
    if not repeated:
        return truth
    differing = [key for key, differs in repeated.items() if differs]
    counts = (
        f"{len(repeated)} keys occur more than once, {len(differing)} of them with different labels"
    )
    if differing and not last_row_wins:
        raise ValueError(
            f"cannot use the labels: {counts} ({differing[0]!r}, ...); select one split with "
            "--split or --rows FIRST-LAST, or add --last-row-wins"
        )
    log(f"{counts}; the last row of each is used")
    return truth


def read_predictions(path: Path | str) -> Rows:
    """Read predictions: 26 scores per person (None for a text that names no label) and the text.

    Raises:
        ValueError: The file cannot be read or is empty, a line does not have the format above,
            scores are outside [0, 1] or of unknown labels, a key occurs twice, or some lines have
            texts and others scores.
    """
    predictions: Rows = {}
    formats: set[str] = set()
    with _open(path) as file:
        for number, line, _ in documents.json_lines(file):
            if not line.strip():
                continue
            try:
                content = documents.parse_json(line, finite=False)
                key, row = parse_prediction(content)
                formats.add("scores" if "scores" in content else "text")
                if key in predictions:
                    raise ValueError(f"the key {key!r} occurs twice")
                if len(formats) > 1:
                    raise ValueError("some lines have a text and others scores: use two files")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else error
                raise ValueError(
                    f"cannot read {path}: line {number} is not a prediction: {reason}"
                ) from error
            predictions[key] = row
    if not predictions:
        raise ValueError(f"cannot read {path}: it contains no predictions")
    return predictions


def select_common_people(predictions: Rows, truth: Rows) -> tuple[Rows, Rows]:
    """Return the predictions and the ground truth of the people who have both.

    Raises:
        ValueError: There are no such people.
    """
    keys = predictions.keys() & truth.keys()
    if not keys:
        raise ValueError(
            "cannot match predictions and ground truth: they have no key in common, only keys such "
            f"as {min(predictions)!r} and {min(truth)!r}"
        )
    return {key: predictions[key] for key in keys}, {k: truth[k] for k in truth if k in keys}


def score_predictions(predictions: Rows, truth: Rows, name: str, as_in_paper: bool = False) -> Run:
    """Return a run from a prediction for each person; `name` is the name of its recognizer.

    Labels of texts are those of `read_predictions`, or extracted again `as_in_paper`.

    Raises:
        ValueError: The files are about different people: metrics of a part of the people would not
            be comparable.
    """
    for keys, problem in (
        (truth.keys() - predictions.keys(), "people have no prediction"),
        (predictions.keys() - truth.keys(), "predictions have no ground truth"),
    ):
        if keys:
            raise ValueError(
                f"cannot evaluate predictions: {len(keys)} {problem} ({min(keys)!r}, ...); use "
                f"predictions and labels of the same people ({len(truth)} with labels, "
                f"{len(predictions)} predicted), or add --subset to evaluate people who have both"
            )
    rows = [{"key": key, **known, **predictions[key]} for key, known in truth.items()]
    run = Run(
        {
            "system": "predictions",
            "recognizer": name,
            "known": list(EMOTIC_LABELS),
            "thresholds": [0.5] * len(EMOTIC_LABELS),
            "extraction": "as in the paper" if as_in_paper else "whole words",
            "writes": any(row["words"] for row in rows),
        },
        people_table(rows),
    )
    if not as_in_paper:
        return run
    labels = run.predicted_as_in_paper
    rows = [{**row, **_hard_scores(named)} for row, named in zip(rows, labels, strict=True)]
    return Run(run.manifest, people_table(rows))


def parse_prediction(content: Any) -> tuple[str, dict[str, Any]]:
    """Return the image key and the columns of a prediction.

    Raises:
        ValueError, KeyError, TypeError: It does not have the format above.
    """
    key = content["image"]
    if not isinstance(key, str):
        raise ValueError(f"the image key {key!r} is not a string")
    if "scores" in content:
        return key, {"scores": _parse_scores(content["scores"]), "words": "", "reason": ""}
    text = content["text"]
    if not isinstance(text, str):
        raise ValueError(f"the text {text!r} is not a string")
    named = named_in(text)
    labels = np.array([label in named for label in EMOTIC_LABELS])
    return key, {**_hard_scores(labels), "words": text}


def _hard_scores(labels: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return scores of 0 and 1; a person whose text names no label has none."""
    if not labels.any():
        return {"scores": None, "reason": "the text names no label"}
    return {"scores": labels.astype(float).tolist(), "reason": ""}


def _is_header(cell: str) -> bool:
    """Return whether the second cell of a file names a column: neither a list nor a label."""
    return not re.search("[][;,]", cell) and cell.strip().lower() not in EMOTIC_LABELS


def _parse_labels(row: Sequence[str]) -> tuple[str, list[bool]]:
    if len(row) != 2:
        raise ValueError(f"{len(row)} columns instead of 2; quote a cell with several labels")
    labels: Any = [label.strip() for label in re.split("[;,]", row[1]) if label.strip()] or None
    if row[1].lstrip().startswith("["):
        labels = documents.parse_literal(row[1])
    if not isinstance(labels, list):
        raise ValueError(f"{row[1]!r} is not a list")
    return row[0], [bool(x) for x in label_array([str(label) for label in labels])]


def _parse_scores(content: Any) -> list[float]:
    if isinstance(content, dict):
        by_label = {str(label).lower(): value for label, value in content.items()}
        label_array(list(by_label))  # raises an error for unknown labels
        if len(by_label) < len(content):
            raise ValueError("a label occurs twice")
        if missing := [label for label in EMOTIC_LABELS if label not in by_label]:
            raise ValueError(f"scores of {', '.join(missing)} are missing")
        content = [by_label[label] for label in EMOTIC_LABELS]
    if isinstance(content, str):
        raise ValueError(f"the scores {content!r} are a string")
    if len(content) != len(EMOTIC_LABELS):
        raise ValueError(f"{len(content)} scores instead of {len(EMOTIC_LABELS)}")
    for score in content:
        if type(score) not in (int, float):
            raise ValueError(f"the score {score!r} is not a number")
        if not 0 <= score <= 1:
            raise ValueError(f"the score {score} is outside [0, 1]")
    return [float(score) for score in content]


def _open(path: Path | str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise _reading_error(path, error) from error


def _reading_error(path: Path | str, error: Exception) -> ValueError:
    return ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")
