"""Compare several runs in a table in the form of the paper, beside the published values.

    runs, metrics ──> compare_runs ──> Comparison ──> comparison_files (Markdown, CSV, HTML)

All values in the table are in %.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from emotion_perception.core import documents
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.logits import logit
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.run import METRICS, Run
from emotion_perception.evaluation.systems import FULL_INPUT

MEASURES = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "hamming": "Hamming loss",
    "subset": "Subset accuracy",
    "map": "mAP",
}
"""Name of a metric to heading, in the order of the paper; mAP is last."""
LOWER_IS_BETTER = frozenset({"hamming"})

OURS = "ours"
AS_IN_PAPER = "ours, labels found as in the paper"
PUBLISHED_PEOPLE = 7203
"""Number of people in EMOTIC's test split, to which the published values refer."""

Metrics = Mapping[str, Any]
"""The metrics of a run: what `Run.compute_metrics` returns and metrics.json contains."""

# Files of older versions lack some of these; their "ece" is the pooled error.
_KEYS = {"labels", "by_height", "by_people", "ece", "ece_pooled", "frequency_against_recall"}


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A cell of the table, in %."""

    value: float
    sd: float | None = None
    """Standard deviation of the middle 95 % of the bootstrap draws."""
    low: float | None = None
    """Lower end of the middle 95 % of the bootstrap draws."""
    high: float | None = None
    """Upper end of the middle 95 % of the bootstrap draws."""

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if self.sd is None else f" ± {self.sd:.2f}")

    def overlaps(self, other: MetricValue) -> bool:
        """Return whether the intervals touch; an unknown interval overlaps every other one."""
        if None in (self.low, self.high, other.low, other.high):
            return True
        return self.low <= other.high and other.low <= self.high  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of the table."""

    block: str
    """`OURS`, `AS_IN_PAPER`, or the block of a published table."""
    model: str
    values: Mapping[str, MetricValue]
    """By the names in `MEASURES`; a metric that is not known is missing."""
    data: str = ""
    """Fingerprint of the data: rows with the same one are comparable. Empty: published."""
    people: int = PUBLISHED_PEOPLE
    best: frozenset[str] = frozenset()
    """Metrics that are marked as the best."""

    @property
    def heading(self) -> str:
        """The heading of the block of this row."""
        return self.block if self.data else f"published, {self.block}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table, with warnings, notes and a description of each run."""

    rows: tuple[TableRow, ...]
    descriptions: tuple[Mapping[str, str], ...]
    """Heading to text for each run; all have the same headings."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences below the table."""
    background_effects: tuple[str, ...] = ()
    """Sentences about pairs of runs that differ only in the background."""


def compare_runs(
    runs: Mapping[str, Run], metrics_by_run: Mapping[str, Metrics], with_published: bool = True
) -> Comparison:
    """Compare runs by name with each other and with the published values.

    Raises:
        ValueError: There are no runs.
    """
    if not runs:
        raise ValueError("cannot compare runs: there are none; pass at least one run folder")
    ours = mark_best(
        [row for name, run in runs.items() for row in _rows(name, run, metrics_by_run[name])]
    )
    return Comparison(
        rows=(*ours, *(published_rows() if with_published else ())),
        descriptions=tuple(_describe(name, run) for name, run in runs.items()),
        warnings=tuple(_warnings(runs, with_published)),
        notes=tuple(_notes(ours, with_published)),
        background_effects=tuple(describe_background_effects(runs)),
    )


def load_metrics(folder: Path | str, run: Run) -> Metrics:
    """Read the metrics of a run; compute them if they are missing or of another version."""
    path = Path(folder) / METRICS
    if path.is_file():
        try:
            stored: Metrics = documents.read_json_object(path)
            if _agree(stored, run):
                return stored
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            pass  # truncated, or written by an older version
    return run.compute_metrics()


def _agree(stored: Metrics, run: Run) -> bool:
    """Return whether the metrics that are cheap to compute are those of the run."""
    truth, scores, predicted = run.truth, run.scores, run.predicted
    decisions = metrics.decision_metrics(truth, predicted)
    try:
        precision = metrics.mean_average_precision(truth, scores)
    except ValueError:
        precision = None
    stored_precision = stored["map"] and stored["map"]["value"]
    return (
        (stored["people"], stored["judged"]) == (len(run), int(run.assessed.sum()))
        and stored.keys() >= _KEYS
        and (stored_precision is None) == (precision is None)
        and (precision is None or math.isclose(stored_precision, precision))
        and all(
            math.isclose(row["value"], getattr(decisions, name))
            for name, row in stored["decisions"].items()
        )
    )


def published_rows() -> list[TableRow]:
    """Return the rows of the paper (17) and, with mAP only, of its predecessor (13)."""
    rows = []
    for name in ("published.csv", "published_map.csv"):
        text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        for row in csv.DictReader(lines):
            values = {
                measure: _published_value(float(row[measure]), row.get(f"{measure}_sd"))
                for measure in MEASURES
                if row.get(measure)
            }
            rows.append(TableRow(row["block"], row["model"], values))
    return rows


def _published_value(value: float, deviation: str | None) -> MetricValue:
    if not deviation:
        return MetricValue(value)
    sd = float(deviation)
    return MetricValue(value, sd, max(0.0, value - 1.96 * sd), min(100.0, value + 1.96 * sd))


def mark_best(rows: Iterable[TableRow]) -> list[TableRow]:
    """Mark the best value of each metric, among the runs on the same data.

    A value is marked only if its interval overlaps that of no other run. Rows of the block
    `AS_IN_PAPER` are about the same runs and are never marked.
    """
    rows = list(rows)
    marked = {id(row): set(row.best) for row in rows}
    for data in {row.data for row in rows}:
        for name in MEASURES:
            compared = [r for r in rows if (r.block, r.data) == (OURS, data) and name in r.values]
            if len(compared) < 2:
                continue
            select = min if name in LOWER_IS_BETTER else max
            best = select(compared, key=lambda row: row.values[name].value)
            others = [row.values[name] for row in compared if row is not best]
            if not any(best.values[name].overlaps(other) for other in others):
                marked[id(best)].add(name)
    return [replace(row, best=frozenset(marked[id(row)])) for row in rows]


def background_effect(run: Run, other: Run) -> dict[str, float]:
    """Return how the scores of two runs on the same people differ.

    Returns:
        The number of people with scores in both runs, the share of them whose leading label
        changes, and the mean absolute change of a score.

    Raises:
        ValueError: The runs are about different people.
    """
    if run.table["key"].to_list() != other.table["key"].to_list():
        raise ValueError(
            "cannot compare two runs about different people: evaluate the same split with both"
        )
    both = run.assessed & other.assessed
    first, second = run.scores[both], other.scores[both]
    leading = [_margins(r, s).argmax(axis=1) for r, s in ((run, first), (other, second))]
    return {
        "people": int(both.sum()),
        "leading_changed": float(np.mean(leading[0] != leading[1])),
        "score_change": float(np.abs(first - second).mean()),
    }


def _margins(run: Run, scores: FloatArray) -> FloatArray:
    thresholds = np.array([1.0 if x is None else x for x in run.manifest["thresholds"]])
    return logit(scores) - logit(thresholds)


def describe_background_effects(runs: Mapping[str, Run]) -> Iterator[str]:
    """Yield a sentence for each pair of runs that differ only in a swapped background."""
    for (name, run), (other_name, other) in permutations(runs.items(), 2):
        full, swap = ({**r.manifest, "input": None} for r in (run, other))
        inputs = (run.manifest.get("input"), other.manifest.get("input"))
        if inputs == (FULL_INPUT, "swap") and full == swap:
            effect = background_effect(run, other)
            yield (
                f"In front of another image ({other_name} against {name}) the leading label of "
                f"{100 * effect['leading_changed']:.1f} % of {effect['people']:,} people changes, "
                f"and a score changes by {effect['score_change']:.3f} on average."
            )


def _rows(name: str, run: Run, values: Metrics) -> Iterator[TableRow]:
    cells = {**values["decisions"], **({"map": values["map"]} if values["map"] else {})}
    yield TableRow(OURS, name, _in_percent(cells), _data(name, run), len(run))
    # The published values were computed with the extraction of the paper.
    if cells := values.get("decisions_as_in_paper", {}):
        yield TableRow(AS_IN_PAPER, name, _in_percent(cells), _data(name, run), len(run))


def _in_percent(cells: Mapping[str, Mapping[str, float]]) -> dict[str, MetricValue]:
    return {
        name: MetricValue(*(100 * cells[name][k] for k in ("value", "sd", "low", "high")))
        for name in MEASURES
        if name in cells
    }


def _data(name: str, run: Run) -> str:
    """Return the fingerprint of the data; unknown data is not comparable with any other."""
    return str(run.manifest.get("data") or f"unknown, of {name}")


def _describe(name: str, run: Run) -> dict[str, str]:
    manifest = run.manifest
    settings = manifest.get("settings") or {}
    dropped = manifest.get("dropped")
    if dropped is not None:
        dropped = "; ".join(f"{count}: {reason}" for reason, count in dropped.items()) or "0"
    known = manifest.get("known") or EMOTIC_LABELS
    values = {
        "run": name,
        "system": manifest.get("system"),
        "recognizer": manifest.get("recognizer"),
        "model": settings.get("model") or "as preset",
        "calibration": manifest.get("calibration") or "none",
        "input": manifest.get("input") or "unknown",
        "split": manifest.get("split"),
        "data": _data(name, run),
        "labels": f"{len(known)} of {len(EMOTIC_LABELS)}",
        "people": f"{len(run):,}",
        "assessed": f"{int(run.assessed.sum()):,}",
        "people dropped": dropped,
        "images missing": manifest.get("missing"),
    }
    return {key: "unknown" if value is None else str(value) for key, value in values.items()}


def _warnings(runs: Mapping[str, Run], with_published: bool) -> Iterator[str]:
    by_data: dict[str, list[str]] = {}
    for name, run in runs.items():
        by_data.setdefault(_data(name, run), []).append(name)
    if len(by_data) > 1:
        groups = "; ".join(f"{data}: {', '.join(names)}" for data, names in by_data.items())
        yield (
            f"These runs are about {len(by_data)} different data ({groups}). Values on different "
            "data must not be compared, and none is marked as the best across them."
        )
    others = [
        f"{name} ({run.manifest.get('split')}, {len(run):,} people)"
        for name, run in runs.items()
        if (run.manifest.get("split"), len(run)) != ("test", PUBLISHED_PEOPLE)
    ]
    if with_published and others:
        yield (
            f"The published values refer to EMOTIC's test split of {PUBLISHED_PEOPLE:,} people, "
            f"unlike these runs: {', '.join(others)}."
        )


def _notes(ours: Sequence[TableRow], with_published: bool) -> Iterator[str]:
    yield (
        "Values in %, with the standard deviation of the middle 95 % of the bootstrap draws, which "
        "are also the interval. Precision, recall and F1 are macro averages over 26 labels. A "
        "lower Hamming loss is better."
    )
    yield (
        "Bold: the best of the runs on the same data, if its 95 % interval overlaps that of no "
        "other run."
    )
    if any(row.block == AS_IN_PAPER for row in ours):
        yield (
            "Labels found as in the paper: as substrings of the generated text, as for the "
            "published values; such a row is never bold."
        )
    if with_published:
        yield (
            f"Published, on EMOTIC's test split of {PUBLISHED_PEOPLE:,} people: Etesam et al., "
            "IROS 2024, arXiv 2405.08992, Table I (zero-shot, trained); arXiv 2310.19995 v1 (mAP "
            "only). Their ± is defined as ours. Their intervals are the value ± 1.96 times it, a "
            "little narrower than ours, because the ± leaves out the outer 5 % of the draws. Never "
            "bold."
        )
