"""The measures of the paper and of the EMOTIC protocol, on plain arrays.

Everywhere `truth` is (N, L) bool, the labels that hold for each person; `chosen` is (N, L) bool,
the labels that a system gives; `scores` is (N, L), its probabilities. What has no positive label
and no choice counts as 0, as in scikit-learn with `zero_division=0`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]

ROUNDS = 10_000
"""Of the bootstrap, as in Etesam et al. 2024."""

_CHUNK = 500  # rounds at a time: bounds the memory of the bootstrap


@dataclass(frozen=True, slots=True)
class Decisions:
    """The five figures of the paper's table, each in 0..1."""

    precision: float
    recall: float
    f1: float
    hamming: float
    """Share of wrong decisions: low is good."""
    subset: float
    """Share of people whose labels are all right."""


def decisions(truth: BoolArray, chosen: BoolArray) -> Decisions:
    """Macro-averaged precision, recall and F1, Hamming loss, subset accuracy.

    Raises:
        ValueError: the arrays have different shapes, or nobody is in them.
    """
    table = _count(truth, chosen)
    return Decisions(*map(float, _figures(table.mean(axis=0)[None], truth.shape[1])[0]))


@dataclass(frozen=True, slots=True)
class Interval:
    """What resampling says about a figure."""

    low: float
    high: float
    deviation: float
    """Standard deviation of the resampled figures between low and high: the paper's +-."""


def bootstrap(
    truth: BoolArray, chosen: BoolArray, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Interval]:
    """95 % intervals of `decisions`, by drawing people with replacement.

    Every figure is a function of counts that add up over people, so that a round is a weighted sum
    and all rounds are one matrix product.

    Raises:
        ValueError: as `decisions`, or there is no round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds of the bootstrap: at least 1 is needed")
    table = _count(truth, chosen).astype(np.float32)
    people = len(table)
    random = np.random.default_rng(seed)
    drawn = []
    for start in range(0, rounds, _CHUNK):
        size = min(_CHUNK, rounds - start)
        picks = random.integers(0, people, (size, people))
        times = np.stack([np.bincount(row, minlength=people) for row in picks])
        drawn.append(times.astype(np.float32) @ table / people)
    figures = _figures(np.concatenate(drawn).astype(np.float64), truth.shape[1])
    return {name: _interval(figures[:, i]) for i, name in enumerate(Decisions.__dataclass_fields__)}


def average_precision(truth: BoolArray, scores: FloatArray) -> FloatArray:
    """(L,): for each label the area under its precision-recall steps; NaN without a positive.

    Raises:
        ValueError: the scores are hard labels, of which no precision-recall curve can be drawn, or
            the shapes differ, or nobody is in the arrays.
    """
    check(truth, scores)
    if len(np.unique(scores)) <= 2 and scores.size > 2:
        raise ValueError(
            f"these are hard labels: average precision needs scores, not labels; there are only "
            f"{np.unique(scores)}"
        )
    return np.array([_average_precision(t, s) for t, s in zip(truth.T, scores.T, strict=True)])


def mean_average_precision(truth: BoolArray, scores: FloatArray) -> float:
    """The plain mean over the labels that occur.

    Raises:
        ValueError: as `average_precision`, or no label occurs.
    """
    found = average_precision(truth, scores)
    if np.isnan(found).all():
        raise ValueError("no label occurs in the data: there is no average precision")
    return float(np.nanmean(found))


def bootstrap_precision(
    truth: BoolArray, scores: FloatArray, rounds: int = 1_000, seed: int = 0
) -> Interval:
    """95 % interval of `mean_average_precision`, by drawing people with replacement.

    Raises:
        ValueError: as `mean_average_precision`, or there is no round.
    """
    if rounds < 1:
        raise ValueError(f"{rounds} rounds of the bootstrap: at least 1 is needed")
    mean_average_precision(truth, scores)  # refuses what has none
    people, labels = truth.shape
    random = np.random.default_rng(seed)
    orders = [np.argsort(-scores[:, i], kind="stable") for i in range(labels)]
    lasts = [
        np.flatnonzero(np.append(np.diff(scores[order, i]) != 0, True))
        for i, order in enumerate(orders)
    ]
    chunk = max(1, min(_CHUNK, 4_000_000 // people))
    drawn = []
    for start in range(0, rounds, chunk):
        size = min(chunk, rounds - start)
        picks = random.integers(0, people, (size, people))
        times = np.stack([np.bincount(row, minlength=people) for row in picks]).astype(np.float32)
        found = np.full((size, labels), np.nan)
        for i in range(labels):
            weight = times[:, orders[i]]
            hits = np.cumsum(weight * truth[orders[i], i], axis=1)[:, lasts[i]]
            chosen = np.cumsum(weight, axis=1)[:, lasts[i]]
            positives = hits[:, -1]
            steps = np.diff(hits, axis=1, prepend=0) * _ratio(hits, chosen)
            some = positives > 0
            found[some, i] = steps.sum(axis=1)[some] / positives[some]
        drawn.append(np.nanmean(found, axis=1))
    return _interval(np.concatenate(drawn))


def calibration_error(truth: BoolArray, scores: FloatArray, bins: int = 15) -> float:
    """Expected calibration error over all decisions, in equal bins (Naeini et al., AAAI 2015)."""
    check(truth, scores)
    flat, hits = scores.ravel().astype(np.float64), truth.ravel().astype(np.float64)
    numbers = np.minimum((flat * bins).astype(int), bins - 1)
    gaps = np.bincount(numbers, flat - hits, bins)
    return float(np.abs(gaps).sum() / len(flat))


def brier(truth: BoolArray, scores: FloatArray) -> float:
    """Mean squared distance of probabilities and facts (Brier 1950)."""
    check(truth, scores)
    return float(np.mean((scores.astype(np.float64) - truth) ** 2))


def thresholds(truth: BoolArray, scores: FloatArray) -> FloatArray:
    """(L,): for each label the score above which as many people are chosen as are true.

    There precision equals recall: the protocol of EMOTIC, fitted on validation data. It lies in the
    middle between the last who is chosen and the first who is not. A label without a positive gets
    a threshold that nobody reaches.
    """
    check(truth, scores)
    found = np.full(truth.shape[1], np.inf)
    for label in range(truth.shape[1]):
        if positives := int(truth[:, label].sum()):
            ordered = np.sort(scores[:, label].astype(np.float64))
            lower = ordered[ordered < ordered[-positives]]
            found[label] = (ordered[-positives] + (lower[-1] if len(lower) else 0.0)) / 2
    return found


def f_thresholds(truth: BoolArray, scores: FloatArray, beta: float) -> FloatArray:
    """(L,): for each label the score above which the F-beta of its choices is best.

    Above 1, beta makes recall count more than precision; below 1 less. Otherwise as `thresholds`.

    Raises:
        ValueError: beta is not above 0, or as `thresholds`.
    """
    check(truth, scores)
    if not beta > 0:
        raise ValueError(f"beta = {beta}: choose a number above 0, such as 1 or 2")
    found = np.full(truth.shape[1], np.inf)
    for label in range(truth.shape[1]):
        if positives := truth[:, label].sum():
            values, hits, chosen = _curve(truth[:, label], scores[:, label].astype(np.float64))
            f = (1 + beta**2) * hits / (beta**2 * positives + chosen)
            best = int(f.argmax())
            lower = values[best + 1] if best + 1 < len(values) else 0.0
            found[label] = (values[best] + lower) / 2
    return found


def affect_error(truth: FloatArray, estimate: FloatArray) -> FloatArray:
    """(3,): mean absolute error of valence, arousal, dominance, on whatever scale both are in."""
    if truth.shape != estimate.shape or truth.ndim != 2 or not len(truth):
        raise ValueError(f"shapes {truth.shape} and {estimate.shape} do not fit: expected (N, 3)")
    return np.abs(truth.astype(np.float64) - estimate).mean(axis=0)  # type: ignore[no-any-return]


def check(truth: BoolArray, other: npt.NDArray[np.generic]) -> None:
    """
    Raises:
        ValueError: the arrays are not both (N, L), or nobody is in them.
    """
    if truth.shape != other.shape or truth.ndim != 2:
        raise ValueError(
            f"shapes {truth.shape} and {other.shape} do not fit: expected (N, L) twice"
        )
    if not len(truth):
        raise ValueError("nobody to evaluate: the arrays are empty")


def _count(truth: BoolArray, chosen: BoolArray) -> npt.NDArray[np.float64]:
    """(N, 3 L + 2): hits, false alarms and misses by label; then wrong decisions, all right."""
    check(truth, chosen)
    wrong = truth != chosen
    return np.column_stack(
        [truth & chosen, ~truth & chosen, truth & ~chosen, wrong.mean(axis=1), ~wrong.any(axis=1)]
    ).astype(np.float64)


def _figures(means: npt.NDArray[np.float64], labels: int) -> npt.NDArray[np.float64]:
    """(R, 5): the figures of `Decisions` for R rows of mean counts."""
    hits, alarms, misses = (means[:, i * labels : (i + 1) * labels] for i in range(3))
    precision = _ratio(hits, hits + alarms)
    recall = _ratio(hits, hits + misses)
    f1 = _ratio(2 * hits, 2 * hits + alarms + misses)
    averages = [figure.mean(axis=1) for figure in (precision, recall, f1)]
    return np.column_stack([*averages, means[:, -2], means[:, -1]])


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _interval(figures: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(figures, (2.5, 97.5))
    kept = figures[(figures >= low) & (figures <= high)]
    return Interval(float(low), float(high), float(kept.std()))


def _curve(
    truth: BoolArray, scores: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every score that occurs, high to low, with how many true and how many in all reach it."""
    order = np.argsort(-scores, kind="stable")
    # People with the same score are chosen together.
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(truth[order], dtype=np.int64)
    return scores[order][last], hits[last], last + 1


def _average_precision(truth: BoolArray, scores: FloatArray) -> float:
    if not (positives := truth.sum()):
        return float("nan")
    _, hits, chosen = _curve(truth, scores)
    return float(np.sum(np.diff(hits / positives, prepend=0.0) * hits / chosen))
