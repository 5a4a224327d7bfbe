"""Several runs as one page that needs nothing else: tables, and drawings as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.evaluation.comparison import (
    MEASURES,
    Comparison,
    Figures,
    MetricValue,
    background_effect,
)
from emotion_perception.evaluation.pages.charts import (
    INK,
    PALETTE,
    document,
    drawn,
    grid,
    scrolling,
)
from emotion_perception.evaluation.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "*": "★", "P": "✚"}
"""Shapes as Matplotlib names them, and as letters for the legend."""


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """A run with all that drawings need, read once."""

    name: str
    found: Figures
    truth: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.floating[Any]]
    chosen: npt.NDArray[np.bool_]
    color: str
    marker: str
    dashes: str


def page(table: Comparison, runs: Mapping[str, Run], figures: Mapping[str, Figures]) -> str:
    """One HTML page that needs nothing else: tables, and drawings as SVG."""
    shown = [
        _Shown(
            name, figures[name], run.truth, run.scores, run.predicted,
            color=PALETTE[i % len(PALETTE)],
            marker=list(_MARKERS)[i % len(_MARKERS)],
            dashes=("-", "--", ":")[i // len(PALETTE) % 3],
        )
        for i, (name, run) in enumerate(runs.items())
    ]  # fmt: skip
    scored = [one for one in shown if one.found["map"]]
    body = [
        "<h1>Comparison</h1>",
        *(f'<p class="warning" role="alert">{escape(w)}</p>' for w in table.warnings),
        _html_table(table),
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in table.notes) + "</ul>",
        "<h2>The runs</h2>",
        grid(
            list(table.descriptions[0]),
            [[escape(w) for w in a.values()] for a in table.descriptions],
        ),
        *(f"<p>{escape(line)}</p>" for line in swaps(runs)),
        "<h2>Drawings</h2>",
        '<p class="legend">' + "".join(_key(one) for one in shown) + "</p>",
        *(_no_curves(one) for one in shown if not one.found["map"]),
        '<div class="drawings">',
        *_drawings_of_scores(scored),
        _drawn_frequency(shown),
        '</div><div class="drawings wide">',
        *_drawings_by_label(shown, scored),
        *_drawings_of_confusion(shown),
        "</div>",
        "<h2>By height of the box and by people in the picture</h2>",
        "<p>F1 and mAP in %, of how many people.</p>",
        _html_groups("Height of the box", "by_height", shown),
        _html_groups("People in the picture", "by_people", shown),
    ]
    return document("Comparison", "\n".join(body), _STYLE)


def swaps(runs: Mapping[str, Run]) -> list[str]:
    """What another background changes, for runs that differ in nothing else."""
    lines = []
    for (name, run), (other_name, other) in permutations(runs.items(), 2):
        plain, swap = ({**one.manifest, "input": None} for one in (run, other))
        inputs = (run.manifest.get("input"), other.manifest.get("input"))
        if inputs == ("scene+person", "swap") and plain == swap:
            found = background_effect(run, other)
            lines.append(
                f"In front of another picture ({other_name} against {name}) the leading label of "
                f"{100 * found['leading_changed']:.1f} % of {found['people']:,} people is another "
                f"one, and a score changes by {found['score_change']:.3f} on average."
            )
    return lines


def _html_table(table: Comparison) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("Model", *MEASURES.values()))
    parts, block = [], None
    for row in table.rows:
        if row.block != block:
            block = row.block
            colspan = len(MEASURES) + 1
            title = escape(block if row.data else f"published, {block}")
            parts.append(f'<tr class="block"><th colspan="{colspan}">{title}</th></tr>')
        cells = "".join(_html_cell(row.figures.get(name), name in row.best) for name in MEASURES)
        parts.append(f'<tr><th scope="row">{escape(row.model)}</th>{cells}</tr>')
    return scrolling(f'<table class="figures"><tr>{head}</tr>{"".join(parts)}</table>')


def _html_cell(figure: MetricValue | None, best: bool) -> str:
    if figure is None:
        return "<td></td>"
    text = f"<b>{figure}</b>" if best else str(figure)
    if figure.low is not None:
        text += f"<small>{figure.low:.2f} to {figure.high:.2f}</small>"
    return f"<td>{text}</td>"


def _html_groups(title: str, key: str, shown: Sequence[_Shown]) -> str:
    groups = list(dict.fromkeys(row["group"] for one in shown for row in one.found[key]))
    if not groups:
        return f"<p>{title}: unknown.</p>"
    cells: dict[tuple[str, str], str] = {}
    for one in shown:
        for row in one.found[key]:
            precision = "" if row["map"] is None else f", mAP {100 * row['map']:.1f}"
            cells[row["group"], one.name] = (
                f"F1 {100 * row['f1']:.1f}{precision}<small>{row['people']:,} people</small>"
            )
    rows = [[escape(group), *(cells.get((group, o.name), "") for o in shown)] for group in groups]
    return grid([title, *(one.name for one in shown)], rows)


def _key(one: _Shown) -> str:
    mark = f'<i style="color:{one.color}">{_MARKERS[one.marker]}</i>'
    return f"<span>{mark} {escape(one.name)}</span> "


def _no_curves(one: _Shown) -> str:
    return f"<p>{escape(one.name)} has no curves: {escape(one.found['map_reason'])}.</p>"


def _drawings_of_scores(scored: Sequence[_Shown]) -> Iterator[str]:
    if not scored:
        return
    labels = _chosen_labels(scored[0].truth)
    yield drawn(
        "Precision against recall: all decisions together, then a common, a middling and a rare "
        "label. Dotted: chance.",
        lambda to: _draw_curves(to, scored, labels),
    )
    errors = ", ".join(f"{one.name} {100 * one.found['ece']:.2f} %" for one in scored)
    yield drawn(
        f"Reliability, in 15 bins of the score. Expected calibration error: {errors}.",
        lambda to: _draw_reliability(to, scored),
    )


def _drawn_frequency(shown: Sequence[_Shown]) -> str:
    ranks = [(one.name, one.found["frequency_against_recall"]) for one in shown]
    ranked = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks if rank is not None)
    return drawn(
        "How common a label is, against the share of it that is found; a point a label."
        + (f" Spearman's rank correlation: {ranked}." if ranked else ""),
        lambda to: _draw_frequency(to, shown),
    )


def _drawings_by_label(shown: Sequence[_Shown], scored: Sequence[_Shown]) -> Iterator[str]:
    height = 0.9 + len(EMOTIC_LABELS) * (0.12 + 0.06 * len(shown))
    yield drawn("F1 by label, commonest first.", lambda to: _draw_labels(to, shown, "f1"), height)
    if scored:
        yield drawn(
            "Average precision by label. Upright line: how common the label is, which is what "
            "chance reaches.",
            lambda to: _draw_labels(to, scored, "average_precision"),
            height,
        )


def _drawings_of_confusion(shown: Sequence[_Shown]) -> Iterator[str]:
    for one in shown:
        yield drawn(
            f"{one.name}: of those who truly have the label of the line, the share that is given "
            "the label of the column.",
            partial(_draw_confusion, one=one),
            5.0,
        )


def _draw_labels(to: Drawing, shown: Sequence[_Shown], measure: str) -> None:
    axes = to.subplots()
    frequency = shown[0].truth.mean(axis=0)
    order = np.argsort(-frequency, kind="stable")
    places = np.arange(len(order))
    size = 0.8 / len(shown)
    for i, one in enumerate(shown):
        values = [one.found["labels"][EMOTIC_LABELS[label]][measure] for label in order]
        heights = [100 * (value or 0.0) for value in values]
        axes.barh(places - 0.4 + (i + 0.5) * size, heights, size, color=one.color)
    if measure == "average_precision":
        axes.plot(100 * frequency[order], places, "|", color=INK, markersize=8)
    axes.set_yticks(places, [EMOTIC_LABELS[label] for label in order])
    axes.set(xlim=(0, 100), ylim=(len(order) - 0.4, -0.6))
    axes.set_xlabel(f"{'F1' if measure == 'f1' else 'average precision'}, %")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _chosen_labels(truth: npt.NDArray[np.bool_]) -> list[int]:
    """The commonest label that occurs, a middling and the rarest."""
    counts = truth.sum(axis=0)
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    return list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))


def _draw_curves(to: Drawing, shown: Sequence[_Shown], labels: Sequence[int]) -> None:
    panels = to.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, label in zip(panels, [None, *labels], strict=False):
        columns = slice(None) if label is None else slice(label, label + 1)
        axes.set_title("all labels" if label is None else EMOTIC_LABELS[label])
        axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
        for one in shown:
            truth = one.truth[:, columns].ravel()
            if truth.any():
                recall, precision = precision_recall(truth, one.scores[:, columns].ravel())
                axes.plot(100 * recall, 100 * precision, one.dashes, color=one.color, lw=1.4)
                axes.axhline(100 * truth.mean(), color=one.color, lw=0.8, ls=":")
    to.supxlabel("recall, %", fontsize=9)
    to.supylabel("precision, %", fontsize=9)


def precision_recall(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]], points: int = 150
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recall and precision from the highest score down, thinned to at most so many points.

    Args:
        truth: (N,), somebody is true.
        scores: (N,).
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # ties count together
    hits = np.cumsum(truth[order])[last]
    recall, precision = hits / hits[-1], hits / (last + 1)
    picked = np.unique(np.searchsorted(recall, np.linspace(0, 1, points)))
    return recall[picked], precision[picked]


def reliability(
    truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]], bins: int = 15
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """(B,) mean score, share that is true, and count of decisions, of the bins that hold any."""
    flat, hits = scores.ravel(), truth.ravel()
    numbers = np.minimum((flat * bins).astype(int), bins - 1)
    counts = np.bincount(numbers, minlength=bins)
    some = counts > 0
    means = [np.bincount(numbers, of, bins)[some] / counts[some] for of in (flat, hits)]
    return means[0], means[1], counts[some]


def _draw_reliability(to: Drawing, shown: Sequence[_Shown]) -> None:
    axes, below = to.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=":")
    for one in shown:
        said, true, counts = reliability(one.truth, one.scores)
        how = {"color": one.color, "marker": one.marker, "ms": 4, "lw": 1.4, "ls": one.dashes}
        axes.plot(100 * said, 100 * true, **how)
        below.plot(100 * said, 100 * counts / counts.sum(), **how)
    axes.set(ylabel="it is true, %", xlim=(-2, 102), ylim=(-2, 102))
    below.set(xlabel="score, %", ylabel="decisions, %", yscale="log")
    below.yaxis.set_major_formatter("{x:g}")


def _draw_frequency(to: Drawing, shown: Sequence[_Shown]) -> None:
    axes = to.subplots()
    axes.set(xlabel="people with the label, %", ylabel="recall, %", xscale="log")
    least = 100.0
    for one in shown:
        # A label that nobody has can have no recall.
        labels = [row for row in one.found["labels"].values() if row["prevalence"]]
        x, y = ([100 * row[key] for row in labels] for key in ("prevalence", "recall"))
        axes.plot(x, y, one.marker, color=one.color, ms=4.5, alpha=0.8)
        least = min([least, *x])
    ticks = [x for x in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if x >= least / 1.3]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.set_minor_formatter("")
    axes.set(xlim=(least / 1.3, 115), ylim=(-3, 103))


def confusion(
    truth: npt.NDArray[np.bool_], chosen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """(L, L): of those with label i the share that is given label j; NaN where nobody has i."""
    counts = truth.sum(axis=0)[:, None].astype(float)
    together = truth.T.astype(float) @ chosen.astype(float)
    shares: npt.NDArray[np.float64] = np.full(together.shape, np.nan)
    np.divide(together, counts, out=shares, where=counts > 0)
    return shares


def _draw_confusion(to: Drawing, one: _Shown) -> None:
    axes: Axes = to.subplots()
    shares = 100 * confusion(one.truth, one.chosen)
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    places = range(len(EMOTIC_LABELS))
    axes.set_xticks(places, EMOTIC_LABELS, rotation=90, fontsize=6.5)
    axes.set_yticks(places, EMOTIC_LABELS, fontsize=6.5)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = to.colorbar(image, ax=axes, location="top", shrink=0.6, aspect=40, label="%")
    bar.outline.set_visible(False)


_STYLE = """.figures td, .figures th:not(:first-child) { text-align: right; }
.block th { background: var(--soft); color: var(--quiet); font-weight: 600; }
.legend { position: sticky; top: 0; z-index: 1; display: flex; gap: .2rem 1.3rem; padding: .5rem 0;
  max-width: none; overflow-x: auto; background: var(--paper);
  border-bottom: 1px solid var(--faint); }
.legend span { white-space: nowrap; } .legend i { font-style: normal; font-size: 1.1em; }
"""
