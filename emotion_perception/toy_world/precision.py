"""Measure what number formats change in the scores of the small models.

Each format is evaluated on the same images as float32, for docs/explanation/toy_world.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emotion_perception.core import documents
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation.summary import rank_correlation
from emotion_perception.evaluation.systems import FULL_INPUT
from emotion_perception.io import atomic, run_folder
from emotion_perception.io.run_folder import to_json
from emotion_perception.toy_world.report import (
    Evaluation,
    Log,
    ModelEvaluator,
    ReportOptions,
    draw_data,
    update_page,
)

FORMATS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8, the rest float32": {"dtype": "float32", "quantization": "int8"},
    "int8, the rest bfloat16": {"dtype": "bfloat16", "quantization": "int8"},
}
"""Format to settings of the recognizer, that of the comparison first."""

_PARTS = {"seen": "combinations of training", "unseen": "other combinations"}
_COLUMNS = {
    "map": "mAP",
    "ece": "ECE",
    "agreement": "same leading label",
    "rank_correlation": "rank correlation",
}


def write_precision(options: ReportOptions, log: Log) -> None:
    """Evaluate models in each number format and write precision.json and the table of the page.

    Raises:
        ValueError: The number of images is not positive, or a model cannot be evaluated.
        ModelError: A library of a format is missing.
        OSError: A file cannot be read or written.
    """
    if options.page:
        atomic.check_writable(options.page)
        documents.read_text(options.page)
    with run_folder.hold(options.out, None) as out:
        data = {name: draw_data(name, options.images, out) for name in _PARTS}
        rows: list[dict[str, Any]] = []
        for number, folder in enumerate(options.models):
            stock: dict[str, Evaluation] = {}
            for title, changes in FORMATS.items():
                evaluator = ModelEvaluator(folder, out, log, **changes)
                for part, split in data.items():
                    evaluation = evaluator.evaluate(part, split, FULL_INPUT)
                    reference = stock.setdefault(part, evaluation)
                    rows.append(
                        {
                            "model": number,
                            "format": title,
                            "part": part,
                            "people": len(split.people),
                        }
                        | comparison(reference, evaluation)
                    )
        atomic.write_files({out / "precision.json": to_json(rows)})
    text = markdown(rows)
    log(text)
    if options.page:
        update_page(options.page, "precision", text)


def comparison(reference: Evaluation, evaluation: Evaluation) -> dict[str, float]:
    """Return the metrics of an evaluation, and how its scores agree with those of a reference."""
    return {
        "map": evaluation.metrics["map"]["value"],
        "ece": evaluation.metrics["ece"],
        **agreement(reference.run.scores, evaluation.run.scores),
    }


def agreement(first: FloatArray, second: FloatArray) -> dict[str, float]:
    """Compare the scores of two recognizers of the same people, (N, L) each.

    Returns:
        The share of people with the same label in front, and Spearman's rank correlation of the
        people, as the mean of the labels whose scores differ.
    """
    correlations = [rank_correlation(a, b) for a, b in zip(first.T, second.T, strict=True)]
    return {
        "agreement": float(np.mean(first.argmax(1) == second.argmax(1))),
        "rank_correlation": float(np.mean([c for c in correlations if c is not None])),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table of docs/explanation/toy_world.md."""
    people = {row["part"]: row["people"] for row in rows}
    counts = ", ".join(f"{people[part]} people of {name}" for part, name in _PARTS.items())
    lines = [
        f"{counts}. ECE is the mean of the labels. The leading label, and Spearman's rank "
        "correlation of the people as the mean of the labels, are compared with float32.",
        "",
        f"| seed | people | number format | {' | '.join(_COLUMNS.values())} |",
        "|---|---|---|" + "---|" * len(_COLUMNS),
    ]
    for row in sorted(rows, key=lambda row: (row["model"], row["part"])):
        values = " | ".join(f"{row[name]:.4f}" for name in _COLUMNS)
        lines.append(f"| {row['model']} | {_PARTS[row['part']]} | {row['format']} | {values} |")
    return "\n".join(lines)
