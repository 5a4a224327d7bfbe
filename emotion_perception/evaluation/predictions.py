"""Anybody's predictions, from files: what another program said about the people of a data set.

The file of predictions holds a JSON object a line:

    {"image": "mscoco/COCO_val2014_000000562243_0.jpg", "text": "Happiness, peace."}
    {"image": "mscoco/COCO_val2014_000000562243_1.jpg", "scores": {"happiness": 0.8, ...}}

`scores` may also be a list of 26 numbers in alphabetical order of the labels. The truth is a part
of the data set, or a CSV file without a head whose rows are an image key and a list of lower-case
labels as Python writes it, which is how the authors of the paper publish theirs.
"""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC_LABELS, label_array, named_in
from emotion_perception.evaluation.datasets.emotic import EmoticSplit
from emotion_perception.evaluation.run import Run, people_table

Predictions = dict[str, dict[str, Any]]
"""Image key to what was said of that person: `scores`, `words` and `reason` of a run."""

Truth = dict[str, dict[str, Any]]
"""Image key to what is known of that person, as the columns of a run."""


def truth_of(data: EmoticSplit) -> Truth:
    """From a part of the data set."""
    return {
        person.key: {
            "truth": person.labels.tolist(),
            "vad_truth": list(person.vad),
            "people": len(picture.people),
            "height": person.box.height,
        }
        for picture in data.images
        for person in picture.people
    }


def read_labels(path: Path | str) -> Truth:
    """From a CSV file.

    Raises:
        ValueError: the file is not there or empty, a line is no such row, or names a label that
            does not exist, or a key that was there before.
    """
    found: Truth = {}
    with _opened(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        try:
            for row in rows:
                head = rows.line_num == 1 and len(row) > 1 and not row[1].lstrip().startswith("[")
                if not row or head:
                    continue
                key, labels = _labels(row)
                if key in found:
                    raise ValueError(f"the key {key!r} is there twice")
                found[key] = {"truth": labels}
        except (ValueError, SyntaxError, TypeError, csv.Error) as error:
            raise ValueError(
                f"{path}, line {rows.line_num} is no key with a list of labels: {error}"
            ) from error
    if not found:
        raise ValueError(f"{path} holds nobody")
    return found


def read_predictions(path: Path | str) -> Predictions:
    """Image key to `scores` (26), None where a text names no label, and `words`.

    Raises:
        ValueError: the file is not there or empty, a line is no such object, scores are outside
            [0, 1] or of unknown labels, a key was there before, or some lines have texts and
            others scores.
    """
    found: Predictions = {}
    kinds: set[str] = set()
    with _opened(path, mode="rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
                key, row = _prediction(content)
                kinds.add("scores" if "scores" in content else "text")
                if key in found:
                    raise ValueError(f"the key {key!r} is there twice")
                if len(kinds) > 1:
                    raise ValueError("some lines have a text and others scores: give two files")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                what = f"it lacks {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{path}, line {number} is no prediction: {what}") from error
            found[key] = row
    if not found:
        raise ValueError(f"{path} holds no predictions")
    return found


def in_both(predictions: Predictions, truth: Truth) -> tuple[Predictions, Truth]:
    """The people of whom both are known.

    Raises:
        ValueError: there is nobody.
    """
    keys = predictions.keys() & truth.keys()
    if not keys:
        raise ValueError(
            f"no prediction is about anybody with labels: their keys look like "
            f"{min(predictions)!r} and {min(truth)!r}"
        )
    return {key: predictions[key] for key in keys}, {k: truth[k] for k in truth if k in keys}


def score(predictions: Predictions, truth: Truth, name: str, as_in_paper: bool = False) -> Run:
    """A run from somebody's predictions about everybody in `truth`.

    Args:
        as_in_paper: take the labels out of texts letter by letter, instead of by whole words.

    Raises:
        ValueError: somebody lacks a prediction, or a prediction is about nobody: figures over some
            of the people would not be comparable.
    """
    lacking, strange = truth.keys() - predictions.keys(), predictions.keys() - truth.keys()
    for keys, what in (
        (lacking, "people have no prediction"),
        (strange, "predictions have no truth"),
    ):
        if keys:
            raise ValueError(
                f"{len(keys)} {what} ({min(keys)!r}, ...): give predictions and labels of the same "
                f"people ({len(truth)} with labels, {len(predictions)} predicted), or add --subset "
                "to score those who have both"
            )
    rows = [{"key": key, **known, **predictions[key]} for key, known in truth.items()]
    writes = any(row["words"] for row in rows)
    run = Run(
        {
            "system": "predictions",
            "recognizer": name,
            "known": list(EMOTIC_LABELS),
            "thresholds": [0.5] * len(EMOTIC_LABELS),
            "extraction": "as in the paper" if as_in_paper else "whole words",
            "writes": writes,
        },
        people_table(rows),
    )
    if not as_in_paper:
        return run
    chosen = run.predicted_as_in_paper
    again = [{**row, **_hard(labels)} for row, labels in zip(rows, chosen, strict=True)]
    return Run(run.manifest, people_table(again))


def _prediction(content: Any) -> tuple[str, dict[str, Any]]:
    key = content["image"]
    if not isinstance(key, str):
        raise ValueError(f"the image key {key!r} is no text")
    if "scores" in content:
        return key, {"scores": _scores(content["scores"]).tolist(), "words": "", "reason": ""}
    words = content["text"]
    if not isinstance(words, str):
        raise ValueError(f"the text {words!r} is no text")
    named = named_in(words)
    chosen = np.array([label in named for label in EMOTIC_LABELS])
    return key, {**_hard(chosen), "words": words}


def _hard(chosen: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """The labels of a text as scores; who is given none was not judged."""
    if not chosen.any():
        return {"scores": None, "reason": "the text names no label"}
    return {"scores": chosen.astype(float).tolist(), "reason": ""}


def _labels(row: list[str]) -> tuple[str, list[bool]]:
    if len(row) != 2:
        raise ValueError(f"{len(row)} columns instead of 2")
    listed = ast.literal_eval(row[1].strip())
    if not isinstance(listed, list | tuple | set):
        raise ValueError(f"{row[1]} is no list")
    return row[0], [bool(x) for x in label_array([str(label) for label in listed])]


def _scores(given: Any) -> npt.NDArray[np.float64]:
    if isinstance(given, dict):
        spelled = {str(label).lower(): value for label, value in given.items()}
        label_array(list(spelled))  # refuses unknown ones
        if missing := [label for label in EMOTIC_LABELS if label not in spelled]:
            raise ValueError(f"scores of {', '.join(missing)} are missing")
        given = [spelled[label] for label in EMOTIC_LABELS]
    if len(given) != len(EMOTIC_LABELS):
        raise ValueError(f"{len(given)} scores instead of {len(EMOTIC_LABELS)}")
    if isinstance(given, str):
        raise ValueError(f"the scores {given!r} are a text")
    scores = np.array([float(value) for value in given])
    if not np.all((scores >= 0) & (scores <= 1)):
        wrong = scores[~((scores >= 0) & (scores <= 1))][0]
        raise ValueError(f"the score {wrong} is outside [0, 1]")
    return scores


def _opened(path: Path | str, **how: Any) -> Any:
    try:
        return Path(path).open(**how)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
