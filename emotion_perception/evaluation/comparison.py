"""Several runs in one table in the paper's form, beside what was published.

All figures here are in %. `comparison` makes the table; `markdown`, `to_csv` and `page.page` write
it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.logits import logit
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.run import Run

MEASURES = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "hamming": "Hamming loss",
    "subset": "Subset accuracy",
    "map": "mAP",
}
"""The columns, in the paper's order with mAP behind."""
LOW_IS_GOOD = frozenset({"hamming"})

OURS = "ours"
AS_IN_PAPER = "ours, labels found as in the paper"
PUBLISHED_PEOPLE = 7203
"""In the part of EMOTIC that the published figures are about: test."""

Figures = Mapping[str, Any]
"""Of one run: what `Run.measured` returns, and metrics.json holds."""


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A cell of the table, in %."""

    value: float
    sd: float | None = None
    """Standard deviation of the 95 % of the draws of a bootstrap that lie in the middle."""
    low: float | None = None
    high: float | None = None
    """Between low and high lie these 95 %."""

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if self.sd is None else f" ± {self.sd:.2f}")

    def overlaps(self, other: MetricValue) -> bool:
        """Whether the intervals touch; one that is not known might."""
        if None in (self.low, self.high, other.low, other.high):
            return True
        return self.low <= other.high and other.low <= self.high  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class TableRow:
    """A line of the table."""

    block: str
    """`OURS`, `AS_IN_PAPER`, or that of a published table."""
    model: str
    figures: Mapping[str, MetricValue]
    """By the names in `MEASURES`; what nobody measured is not there."""
    data: str = ""
    """Rows with the same are about the same people; empty: published."""
    people: int = PUBLISHED_PEOPLE
    best: frozenset[str] = frozenset()
    """Measures that are marked."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The table, and all that has to be said about it."""

    rows: tuple[TableRow, ...]
    descriptions: tuple[Mapping[str, str], ...]
    """What each run was, heading to words; all have the same headings."""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def comparison(
    runs: Mapping[str, Run], figures: Mapping[str, Figures], with_published: bool = True
) -> Comparison:
    """Runs and their figures by name, beside what was published.

    Raises:
        ValueError: there is no run.
    """
    if not runs:
        raise ValueError("no run to compare: give at least one")
    ours = mark_best([row for name, run in runs.items() for row in _ours(name, run, figures[name])])
    return Comparison(
        rows=(*ours, *(published() if with_published else ())),
        descriptions=tuple(_about(name, run) for name, run in runs.items()),
        warnings=tuple(_warnings(runs, with_published)),
        notes=tuple(_notes(ours, with_published)),
    )


def load_metrics(folder: Path | str, run: Run) -> Figures:
    """From the metrics.json beside a run, or anew where that is missing or about other answers."""
    path = Path(folder) / "metrics.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text())
            if _fits(found, run):
                return found  # type: ignore[no-any-return]
        except (ValueError, KeyError, TypeError):
            pass  # half a file, or one of an older version
    return run.compute_metrics()


def _fits(found: Figures, run: Run) -> bool:
    """Whether the cheap ones of the figures come out again."""
    truth, scores, chosen = run.truth, run.scores, run.predicted
    now = metrics.decision_metrics(truth, chosen)
    try:
        precision = metrics.mean_average_precision(truth, scores)
    except ValueError:
        precision = None
    there = found["map"] and found["map"]["value"]
    return (
        (found["people"], found["judged"]) == (len(run), int(run.assessed.sum()))
        and found.keys() >= {"labels", "by_height", "by_people", "ece", "frequency_against_recall"}
        and (there is None) == (precision is None)
        and (precision is None or math.isclose(there, precision))
        and all(
            math.isclose(row["value"], getattr(now, name))
            for name, row in found["decisions"].items()
        )
    )


def published() -> list[TableRow]:
    """The tables of the paper (17 rows) and, mAP only, of its predecessor (13 rows)."""
    rows = []
    for table in ("published.csv", "published_map.csv"):
        text = resources.files(__package__).joinpath(table).read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        for row in csv.DictReader(lines):
            figures = {
                name: _published(float(row[name]), row.get(f"{name}_sd"))
                for name in MEASURES
                if row.get(name)
            }
            rows.append(TableRow(row["block"], row["model"], figures))
    return rows


def _published(value: float, deviation: str | None) -> MetricValue:
    if not deviation:
        return MetricValue(value)
    sd = float(deviation)
    return MetricValue(value, sd, max(0.0, value - 1.96 * sd), min(100.0, value + 1.96 * sd))


def mark_best(rows: Iterable[TableRow]) -> list[TableRow]:
    """Mark what is better than all other runs on the same data, by intervals that do not overlap.

    A run is no rival of itself: where its labels are found in two ways, the second is left out.
    """
    rows = list(rows)
    marked = {id(row): set(row.best) for row in rows}
    for data in {row.data for row in rows}:
        for name in MEASURES:
            rivals = [r for r in rows if (r.block, r.data) == (OURS, data) and name in r.figures]
            pick = min if name in LOW_IS_GOOD else max
            if len(rivals) < 2:
                continue
            best = pick(rivals, key=lambda row: row.figures[name].value)
            others = [row.figures[name] for row in rivals if row is not best]
            if not any(best.figures[name].overlaps(other) for other in others):
                marked[id(best)].add(name)
    return [replace(row, best=frozenset(marked[id(row)])) for row in rows]


def _ours(name: str, run: Run, found: Figures) -> Iterator[TableRow]:
    cells = {**found["decisions"], **({"map": found["map"]} if found["map"] else {})}
    yield TableRow(OURS, name, _percent(cells), _data(name, run), len(run))
    # The published figures were made with that extraction, ours otherwise with whole words.
    if cells := found.get("decisions_as_in_paper", {}):
        yield TableRow(AS_IN_PAPER, name, _percent(cells), _data(name, run), len(run))


def _percent(cells: Mapping[str, Mapping[str, float]]) -> dict[str, MetricValue]:
    keys = ("value", "sd", "low", "high")
    return {
        name: MetricValue(*(100 * cells[name][k] for k in keys))
        for name in MEASURES
        if name in cells
    }


def _data(name: str, run: Run) -> str:
    """Data without a fingerprint are like no other's."""
    return str(run.manifest.get("data") or f"unknown, of {name}")


def _about(name: str, run: Run) -> dict[str, str]:
    about = run.manifest
    settings = about.get("settings") or {}
    dropped = about.get("dropped")
    if dropped is not None:
        dropped = "; ".join(f"{count}: {why}" for why, count in dropped.items()) or "0"
    known = about.get("known") or EMOTIC_LABELS
    words = {
        "run": name,
        "system": about.get("system"),
        "recognizer": about.get("recognizer"),
        "model": settings.get("model") or "as preset",
        "calibration": about.get("calibration") or "none",
        "input": about.get("input") or "unknown",
        "split": about.get("split"),
        "data": _data(name, run),
        "labels": f"{len(known)} of {len(EMOTIC_LABELS)}",
        "people": f"{len(run):,}",
        "judged": f"{int(run.assessed.sum()):,}",
        "people dropped": dropped,
        "pictures missing": about.get("missing"),
    }
    return {key: "unknown" if value is None else str(value) for key, value in words.items()}


def _warnings(runs: Mapping[str, Run], with_published: bool) -> Iterator[str]:
    by_data: dict[str, list[str]] = {}
    for name, run in runs.items():
        by_data.setdefault(_data(name, run), []).append(name)
    if len(by_data) > 1:
        groups = "; ".join(f"{data}: {', '.join(names)}" for data, names in by_data.items())
        yield (
            f"These runs are about {len(by_data)} different data ({groups}). Figures of different "
            "data must not be compared, and none is marked as the best across them."
        )
    apart = [
        f"{name} ({run.manifest.get('split')}, {len(run):,} people)"
        for name, run in runs.items()
        if (run.manifest.get("split"), len(run)) != ("test", PUBLISHED_PEOPLE)
    ]
    if with_published and apart:
        yield (
            f"The published figures are about EMOTIC's test part of {PUBLISHED_PEOPLE:,} people, "
            f"which is not what these runs are about: {', '.join(apart)}."
        )


def _notes(ours: Sequence[TableRow], with_published: bool) -> Iterator[str]:
    yield (
        "Figures in %, value ± standard deviation of those 95 % of the bootstrap's draws that lie "
        "in the middle, which is also their interval. Precision, recall and F1 are macro averages "
        "over 26 labels. A low Hamming loss is good."
    )
    yield (
        "Bold: the best of the runs on the same data, if its 95 % interval overlaps none of the "
        "others'."
    )
    if any(row.block == AS_IN_PAPER for row in ours):
        yield (
            "Labels found as in the paper: letter by letter in what the system wrote, as for the "
            "published figures; such a row is never bold."
        )
    if with_published:
        yield (
            f"Published, on EMOTIC's test part of {PUBLISHED_PEOPLE:,} people: Etesam et al., IROS "
            "2024, arXiv 2405.08992, Table I (zero-shot, trained); arXiv 2310.19995 v1 (mAP only). "
            "Their ± is defined as ours. Their intervals are value ± 1.96 of it, a little narrower "
            "than the draws', since the ± leaves out the outer 5 %. Never bold."
        )


def background_effect(run: Run, other: Run) -> dict[str, float]:
    """Return how the scores of two runs on the same people differ.

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


def markdown(table: Comparison) -> str:
    lines = ["# Comparison", ""]
    lines += [f"**Warning: {_plain(warning)}**\n" for warning in table.warnings]
    rows = []
    for row in table.rows:
        cells = {name: str(figure) for name, figure in row.figures.items()}
        cells |= {name: f"**{cells[name]}**" for name in row.best}
        rows.append([row.block, _plain(row.model), *(cells.get(name, "") for name in MEASURES)])
    lines += _markdown_table(["", "model", *MEASURES.values()], rows, numbers_from=2)
    lines += ["", *(f"- {_plain(note)}" for note in table.notes), "", "## The runs", ""]
    descriptions = [[_plain(word) for word in about.values()] for about in table.descriptions]
    lines += _markdown_table(list(table.descriptions[0]), descriptions)
    return "\n".join(lines) + "\n"


def _markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None
) -> list[str]:
    left = len(headings) if numbers_from is None else numbers_from
    rule = "|" + "---|" * left + "---:|" * (len(headings) - left)
    return [f"| {' | '.join(headings)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _plain(text: str) -> str:
    """What comes from runs is words, not Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#&$])", r"\\\1", " ".join(text.split()))


def to_csv(table: Comparison) -> str:
    """A line a row; for each measure its value, sd, low, high, and whether it is marked."""
    parts = ("value", "sd", "low", "high")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{name}{'' if p == 'value' else f'_{p}'}" for name in MEASURES for p in parts]
    writer.writerow(["block", "model", "data", "people", *columns, "best"])
    for row in table.rows:
        cells = [
            None if (figure := row.figures.get(name)) is None else getattr(figure, part)
            for name in MEASURES
            for part in parts
        ]
        figures = ["" if cell is None else round(cell, 6) for cell in cells]
        best = " ".join(name for name in MEASURES if name in row.best)
        writer.writerow([row.block, row.model, row.data, row.people, *figures, best])
    return file.getvalue()
