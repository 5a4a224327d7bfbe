"""The metrics of a run, ready for JSON: of decisions, of scores, by label and by group of people.

In all functions `truth` and `predicted` are (N, 26) bool and `scores` is (N, 26), of the same N
people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import spearmanr

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import metrics

BoolArray = npt.NDArray[np.bool_]


def summarize_decisions(truth: BoolArray, predicted: BoolArray, rounds: int) -> dict[str, Any]:
    """Return the five metrics of the paper, each with its interval from `rounds` of a bootstrap."""
    values = metrics.decision_metrics(truth, predicted)
    intervals = metrics.bootstrap_decisions(truth, predicted, rounds)
    return {name: _with_interval(getattr(values, name), i) for name, i in intervals.items()}


def summarize_scores(truth: BoolArray, scores: FloatArray) -> dict[str, Any]:
    """Return the metrics that need scores; None, with the reason, if there are only hard labels."""
    try:
        value = metrics.mean_average_precision(truth, scores)
    except ValueError as error:
        missing = dict.fromkeys(("ece", "ece_pooled", "brier"))
        return {"map": None, "map_reason": str(error), **missing}
    return {
        "map": _with_interval(value, metrics.bootstrap_map(truth, scores)),
        "map_reason": "",
        "ece": metrics.calibration_error(truth, scores),
        "ece_pooled": metrics.pooled_calibration_error(truth, scores),
        "brier": metrics.brier_score(truth, scores),
    }


def _with_interval(value: float, interval: metrics.Interval) -> dict[str, float]:
    return {"value": value, "low": interval.low, "high": interval.high, "sd": interval.deviation}


def metrics_by_label(
    truth: BoolArray, scores: FloatArray, predicted: BoolArray
) -> dict[str, dict[str, float | None]]:
    """Return for each label its frequency in the ground truth and in predictions, and metrics."""
    try:
        precisions = metrics.average_precision(truth, scores)
    except ValueError:
        precisions = np.full(len(EMOTIC_LABELS), np.nan)
    rows: dict[str, dict[str, float | None]] = {}
    for i, label in enumerate(EMOTIC_LABELS):
        column = metrics.decision_metrics(truth[:, i : i + 1], predicted[:, i : i + 1])
        rows[label] = {
            "prevalence": float(truth[:, i].mean()),
            "given": float(predicted[:, i].mean()),
            "precision": column.precision,
            "recall": column.recall,
            "f1": column.f1,
            "average_precision": None if np.isnan(precisions[i]) else float(precisions[i]),
        }
    return rows


def rank_correlation(first: FloatArray, second: FloatArray) -> float | None:
    """Return Spearman's rank correlation; None if all values of an array are equal."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def height_thirds(heights: pl.Series) -> dict[str, BoolArray]:
    """Split people into thirds by the height of their box in pixels; {} if no height is known."""
    values = heights.to_numpy()
    if not len(values) or np.isnan(values).all():
        return {}
    low, high = np.nanpercentile(values, (100 / 3, 200 / 3))
    return {
        f"below {low:.0f} px": values < low,
        f"{low:.0f} to {high:.0f} px": (values >= low) & (values < high),
        f"from {high:.0f} px": values >= high,
    }


def people_per_image(people: pl.Series) -> dict[str, BoolArray]:
    """Split people by the number of people in their image: alone, two, three or more."""
    values = people.fill_null(0).to_numpy()
    groups = {"alone": values == 1, "two": values == 2, "three or more": values >= 3}
    return {name: rows for name, rows in groups.items() if rows.any()}


def metrics_by_group(
    truth: BoolArray, scores: FloatArray, predicted: BoolArray, groups: Mapping[str, BoolArray]
) -> list[dict[str, Any]]:
    """Return F1 and mAP of each group of people that is not empty; groups may overlap."""
    return [
        {
            "group": name,
            "people": int(rows.sum()),
            "f1": metrics.decision_metrics(truth[rows], predicted[rows]).f1,
            "map": _map_or_none(truth[rows], scores[rows]),
        }
        for name, rows in groups.items()
        if rows.any()
    ]


def _map_or_none(truth: BoolArray, scores: FloatArray) -> float | None:
    try:
        return metrics.mean_average_precision(truth, scores)
    except ValueError:
        return None
