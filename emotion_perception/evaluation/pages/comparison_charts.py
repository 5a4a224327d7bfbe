"""The charts of the comparison page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.evaluation.comparison import Metrics
from emotion_perception.evaluation.metrics import CALIBRATION_BINS, curve, score_bins
from emotion_perception.evaluation.pages.charts import INK, PALETTE, Chart, draw_chart
from emotion_perception.evaluation.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating[Any]]

_MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "*": "★", "P": "✚"}
"""Matplotlib marker to the character in the legend."""


@dataclass(frozen=True, slots=True, eq=False)
class PlottedRun:
    """A run with the arrays and the style of its curves."""

    name: str
    metrics: Metrics
    truth: BoolArray
    scores: FloatArray
    predicted: BoolArray
    color: str
    marker: str
    dashes: str

    @classmethod
    def create(cls, number: int, name: str, run: Run, metrics: Metrics) -> PlottedRun:
        """Read the arrays of a run and choose a style by its number."""
        return cls(
            *(name, metrics, run.truth, run.scores, run.predicted),
            color=PALETTE[number % len(PALETTE)],
            marker=list(_MARKERS)[number % len(_MARKERS)],
            dashes=("-", "--", ":")[number // len(PALETTE) % 3],
        )

    @property
    def symbol(self) -> str:
        """The character of this run in the legend."""
        return _MARKERS[self.marker]


def small_charts(runs: Sequence[PlottedRun]) -> Iterator[Chart]:
    """Draw the curves of runs with scores, and recall against frequency."""
    if scored := [run for run in runs if run.metrics["map"]]:
        labels = _example_labels(scored[0].truth)
        yield draw_chart(
            "Precision against recall: all decisions together, then a common, a middling and a "
            "rare label. Dotted: chance.",
            lambda figure: _draw_precision_recall(figure, scored, labels),
        )
        errors = ", ".join(
            f"{run.name} {100 * run.metrics['ece']:.2f} % "
            f"(pooled: {100 * run.metrics['ece_pooled']:.2f} %)"
            for run in scored
        )
        yield draw_chart(
            f"Reliability of all decisions together, in {CALIBRATION_BINS} bins of the score. "
            f"Expected calibration error, mean of the labels: {errors}.",
            lambda figure: _draw_reliability(figure, scored),
        )
    ranks = [(run.name, run.metrics["frequency_against_recall"]) for run in runs]
    ranked = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks if rank is not None)
    yield draw_chart(
        "Frequency of a label against its recall; one point per label."
        + (f" Spearman's rank correlation: {ranked}." if ranked else ""),
        lambda figure: _draw_frequency(figure, runs),
    )


def wide_charts(runs: Sequence[PlottedRun]) -> Iterator[Chart]:
    """Draw metrics by label, and a confusion matrix for each run."""
    height = 0.9 + len(EMOTIC_LABELS) * (0.12 + 0.06 * len(runs))
    yield draw_chart(
        "F1 by label, most frequent first.",
        lambda figure: _draw_by_label(figure, runs, "f1"),
        height,
    )
    if scored := [run for run in runs if run.metrics["map"]]:
        yield draw_chart(
            "Average precision by label. Vertical line: the frequency of the label, which is what "
            "chance reaches.",
            lambda figure: _draw_by_label(figure, scored, "average_precision"),
            height,
        )
    for run in runs:
        yield draw_chart(
            f"{run.name}: of the people who have the label of the row, the share for whom the "
            "label of the column is predicted.",
            partial(_draw_confusion, run=run),
            5.0,
        )


def precision_recall(
    truth: BoolArray, scores: FloatArray, points: int = 150
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return recall and precision from the highest score down.

    Args:
        truth: (N,), with at least one True.
        scores: (N,).
        points: The curve is thinned to at most this many points.
    """
    _, hits, predicted = curve(truth, scores)
    recall, precision = hits / hits[-1], hits / predicted
    picked = np.unique(np.searchsorted(recall, np.linspace(0, 1, points)))
    return recall[picked], precision[picked]


def reliability(
    truth: BoolArray, scores: FloatArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return mean score, share of positives and count of each bin that is not empty, (B,) each."""
    flat, hits = scores.ravel(), truth.ravel()
    bins = score_bins(flat)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    mean_score, positives = (
        np.bincount(bins, values, CALIBRATION_BINS)[filled] / counts[filled]
        for values in (flat, hits)
    )
    return mean_score, positives, counts[filled]


def confusion(truth: BoolArray, predicted: BoolArray) -> npt.NDArray[np.float64]:
    """Return for people with label i the share with predicted label j, (L, L); NaN without any."""
    counts = truth.sum(axis=0)[:, None].astype(float)
    together = truth.T.astype(float) @ predicted.astype(float)
    shares: npt.NDArray[np.float64] = np.full(together.shape, np.nan)
    np.divide(together, counts, out=shares, where=counts > 0)
    return shares


def _draw_by_label(figure: Figure, runs: Sequence[PlottedRun], measure: str) -> None:
    axes = figure.subplots()
    frequency = runs[0].truth.mean(axis=0)
    order = np.argsort(-frequency, kind="stable")
    positions = np.arange(len(order))
    size = 0.8 / len(runs)
    for i, run in enumerate(runs):
        values = [run.metrics["labels"][EMOTIC_LABELS[label]][measure] for label in order]
        lengths = [100 * (value or 0.0) for value in values]
        axes.barh(positions - 0.4 + (i + 0.5) * size, lengths, size, color=run.color)
    if measure == "average_precision":
        axes.plot(100 * frequency[order], positions, "|", color=INK, markersize=8)
    axes.set_yticks(positions, [EMOTIC_LABELS[label] for label in order])
    axes.set(xlim=(0, 100), ylim=(len(order) - 0.4, -0.6))
    axes.set_xlabel(f"{'F1' if measure == 'f1' else 'average precision'}, %")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _example_labels(truth: BoolArray) -> list[int]:
    """Return the most frequent label that occurs, a middling one and the least frequent."""
    counts = truth.sum(axis=0)
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    return list(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]))


def _draw_precision_recall(
    figure: Figure, runs: Sequence[PlottedRun], labels: Sequence[int]
) -> None:
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, label in zip(panels, [None, *labels], strict=False):
        columns = slice(None) if label is None else slice(label, label + 1)
        axes.set_title("all labels" if label is None else EMOTIC_LABELS[label])
        axes.set(xlim=(0, 102), ylim=(0, 102), aspect="equal")
        for run in runs:
            truth = run.truth[:, columns].ravel()
            if truth.any():
                recall, precision = precision_recall(truth, run.scores[:, columns].ravel())
                axes.plot(100 * recall, 100 * precision, run.dashes, color=run.color, lw=1.4)
                axes.axhline(100 * truth.mean(), color=run.color, lw=0.8, ls=":")
    figure.supxlabel("recall, %", fontsize=9)
    figure.supylabel("precision, %", fontsize=9)


def _draw_reliability(figure: Figure, runs: Sequence[PlottedRun]) -> None:
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=":")
    for run in runs:
        scores, positives, counts = reliability(run.truth, run.scores)
        style = {"color": run.color, "marker": run.marker, "ms": 4, "lw": 1.4, "ls": run.dashes}
        axes.plot(100 * scores, 100 * positives, **style)
        below.plot(100 * scores, 100 * counts / counts.sum(), **style)
    axes.set(ylabel="share of positives, %", xlim=(-2, 102), ylim=(-2, 102))
    below.set(xlabel="score, %", ylabel="decisions, %", yscale="log")
    below.yaxis.set_major_formatter("{x:g}")
    below.yaxis.set_minor_formatter("")


def _draw_frequency(figure: Figure, runs: Sequence[PlottedRun]) -> None:
    axes = figure.subplots()
    axes.set(xlabel="people with the label, %", ylabel="recall, %", xscale="log")
    smallest = 100.0
    for run in runs:
        # A label without positives has no recall.
        labels = [row for row in run.metrics["labels"].values() if row["prevalence"]]
        x, y = ([100 * row[key] for row in labels] for key in ("prevalence", "recall"))
        axes.plot(x, y, run.marker, color=run.color, ms=4.5, alpha=0.8)
        smallest = min([smallest, *x])
    ticks = [x for x in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if x >= smallest / 1.3]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.set_minor_formatter("")
    axes.set(xlim=(smallest / 1.3, 115), ylim=(-3, 103))


def _draw_confusion(figure: Figure, run: PlottedRun) -> None:
    axes: Axes = figure.subplots()
    shares = 100 * confusion(run.truth, run.predicted)
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, interpolation="nearest")
    positions = range(len(EMOTIC_LABELS))
    axes.set_xticks(positions, EMOTIC_LABELS, rotation=90, fontsize=6.5)
    axes.set_yticks(positions, EMOTIC_LABELS, fontsize=6.5)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.6, aspect=40, label="%")
    bar.outline.set_visible(False)
