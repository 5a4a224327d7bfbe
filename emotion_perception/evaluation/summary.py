"""The figures of a run, ready for JSON: of decisions, of scores, by label and by group.

Everywhere `truth` and `chosen` are (N, 26) bool and `scores` (N, 26), of the same N people.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import spearmanr

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import metrics

BoolArray = npt.NDArray[np.bool_]


def decisions(truth: BoolArray, chosen: BoolArray, rounds: int) -> dict[str, Any]:
    """The five figures of the paper, each with its interval."""
    figures = metrics.decisions(truth, chosen)
    intervals = metrics.bootstrap(truth, chosen, rounds)
    return {
        name: {"value": getattr(figures, name), "low": i.low, "high": i.high, "sd": i.deviation}
        for name, i in intervals.items()
    }


def of_scores(truth: BoolArray, scores: FloatArray) -> dict[str, Any]:
    """What needs more than hard labels; None with the reason where there is nothing else."""
    found: dict[str, Any] = {"map": None, "map_reason": "", "ece": None, "brier": None}
    try:
        value = metrics.mean_average_precision(truth, scores)
    except ValueError as error:
        return found | {"map_reason": str(error)}
    interval = metrics.bootstrap_precision(truth, scores)
    found["map"] = {
        "value": value, "low": interval.low, "high": interval.high, "sd": interval.deviation,
    }  # fmt: skip
    found["ece"] = metrics.calibration_error(truth, scores)
    found["brier"] = metrics.brier(truth, scores)
    return found


def by_label(
    truth: BoolArray, scores: FloatArray, chosen: BoolArray
) -> dict[str, dict[str, float | None]]:
    """For each label how common it is, how often it is given, and how well."""
    try:
        precisions = metrics.average_precision(truth, scores)
    except ValueError:
        precisions = np.full(len(EMOTIC_LABELS), np.nan)
    found: dict[str, dict[str, float | None]] = {}
    for i, label in enumerate(EMOTIC_LABELS):
        one = metrics.decisions(truth[:, i : i + 1], chosen[:, i : i + 1])
        found[label] = {
            "prevalence": float(truth[:, i].mean()),
            "given": float(chosen[:, i].mean()),
            "precision": one.precision,
            "recall": one.recall,
            "f1": one.f1,
            "average_precision": None if np.isnan(precisions[i]) else float(precisions[i]),
        }
    return found


def rank_correlation(one: FloatArray, other: FloatArray) -> float | None:
    """Spearman's; None where all of one are alike."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def thirds(heights: pl.Series) -> dict[str, BoolArray]:
    """Who belongs to which third by the height of their box, pixels; empty where none is known."""
    values = heights.to_numpy()
    if not len(values) or np.isnan(values).all():
        return {}
    low, high = np.nanpercentile(values, (100 / 3, 200 / 3))
    return {
        f"below {low:.0f} px": values < low,
        f"{low:.0f} to {high:.0f} px": (values >= low) & (values < high),
        f"from {high:.0f} px": values >= high,
    }


def crowds(people: pl.Series) -> dict[str, BoolArray]:
    """Who is alone in their picture, one of two, or one of more."""
    values = people.fill_null(0).to_numpy()
    found = {"alone": values == 1, "two": values == 2, "three or more": values >= 3}
    return {name: rows for name, rows in found.items() if rows.any()}


def by_group(
    truth: BoolArray,
    scores: FloatArray,
    chosen: BoolArray,
    groups: dict[str, BoolArray],
) -> list[dict[str, Any]]:
    """F1 and mAP of each group of people, which may overlap."""
    return [
        {
            "group": name,
            "people": int(rows.sum()),
            "f1": metrics.decisions(truth[rows], chosen[rows]).f1,
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
