"""Metrics of the paper and of the EMOTIC protocol, on plain arrays.

In all functions `truth` is (N, L) bool: the labels that hold for each of N people; `predicted` is
(N, L) bool: the labels that a system predicts; `scores` is (N, L): the probabilities of a system. A
ratio whose denominator is 0 counts as 0, as in scikit-learn with `zero_division=0`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]

BOOTSTRAP_ROUNDS = 10_000
"""As in Etesam et al. 2024."""

CALIBRATION_BINS = 15

_CHUNK = 500  # bootstrap rounds at a time: bounds the memory


@dataclass(frozen=True, slots=True)
class DecisionMetrics:
    """The five metrics in the table of the paper, each in 0..1."""

    precision: float
    recall: float
    f1: float
    hamming: float
    """Share of wrong decisions; lower is better."""
    subset: float
    """Share of people whose labels are all correct."""


def decision_metrics(truth: BoolArray, predicted: BoolArray) -> DecisionMetrics:
    """Return macro-averaged precision, recall and F1, Hamming loss and subset accuracy.

    Raises:
        ValueError: The arrays have different shapes, or no rows.
    """
    counts = _counts(truth, predicted)
    row = _metrics_from_counts(counts.mean(axis=0)[None], truth.shape[1])[0]
    return DecisionMetrics(*map(float, row))


@dataclass(frozen=True, slots=True)
class Interval:
    """The 95 % interval of a metric under resampling."""

    low: float
    high: float
    deviation: float
    """Standard deviation of the resampled values between low and high: the ± of the paper."""


def bootstrap_decisions(
    truth: BoolArray, predicted: BoolArray, rounds: int = BOOTSTRAP_ROUNDS, seed: int = 0
) -> dict[str, Interval]:
    """Return 95 % intervals of `decision_metrics`, drawing people with replacement.

    Each metric is a function of counts that are summed over people. A round is therefore a weighted
    sum of rows, and all rounds are one matrix product.

    Raises:
        ValueError: As `decision_metrics`, or `rounds` is not positive.
    """
    _check_rounds(rounds)
    counts = _counts(truth, predicted).astype(np.float32)
    people = len(counts)
    random = np.random.default_rng(seed)
    means = []
    for start in range(0, rounds, _CHUNK):
        weights = _draw(random, min(_CHUNK, rounds - start), people)
        means.append(weights @ counts / people)
    values = _metrics_from_counts(np.concatenate(means).astype(np.float64), truth.shape[1])
    return {f.name: _interval(values[:, i]) for i, f in enumerate(fields(DecisionMetrics))}


def average_precision(truth: BoolArray, scores: FloatArray) -> FloatArray:
    """Return the area under the steps of the precision-recall curve per label, (L,).

    A label without a positive has NaN.

    Raises:
        ValueError: The scores are hard labels, which have no precision-recall curve, or the arrays
            have different shapes or no rows.
    """
    check_shapes(truth, scores)
    if len(np.unique(scores)) <= 2 and scores.size > 2:
        raise ValueError(
            f"these are hard labels: average precision needs scores, not labels; there are only "
            f"{np.unique(scores)}"
        )
    return np.array([_average_precision(t, s) for t, s in zip(truth.T, scores.T, strict=True)])


def mean_average_precision(truth: BoolArray, scores: FloatArray) -> float:
    """Return the unweighted mean of `average_precision` over the labels that occur.

    Raises:
        ValueError: As `average_precision`, or no label occurs.
    """
    by_label = average_precision(truth, scores)
    if np.isnan(by_label).all():
        raise ValueError("no label occurs in the data: there is no average precision")
    return float(np.nanmean(by_label))


def bootstrap_map(
    truth: BoolArray, scores: FloatArray, rounds: int = 1_000, seed: int = 0
) -> Interval:
    """Return the 95 % interval of `mean_average_precision`, drawing people with replacement.

    Raises:
        ValueError: As `mean_average_precision`, or `rounds` is not positive.
    """
    _check_rounds(rounds)
    mean_average_precision(truth, scores)  # raises the errors above
    people, labels = truth.shape
    random = np.random.default_rng(seed)
    orders = [np.argsort(-scores[:, i], kind="stable") for i in range(labels)]
    lasts = [_last_of_ties(scores[order, i]) for i, order in enumerate(orders)]
    chunk = max(1, min(_CHUNK, 4_000_000 // people))
    means = []
    for start in range(0, rounds, chunk):
        size = min(chunk, rounds - start)
        weights = _draw(random, size, people)
        by_label = np.full((size, labels), np.nan)
        for i in range(labels):
            ordered = weights[:, orders[i]]
            hits = np.cumsum(ordered * truth[orders[i], i], axis=1)[:, lasts[i]]
            predicted = np.cumsum(ordered, axis=1)[:, lasts[i]]
            positives = hits[:, -1]
            steps = np.diff(hits, axis=1, prepend=0) * _ratio(hits, predicted)
            occurs = positives > 0
            by_label[occurs, i] = steps.sum(axis=1)[occurs] / positives[occurs]
        means.append(np.nanmean(by_label, axis=1))
    return _interval(np.concatenate(means))


def curve(
    truth: BoolArray, scores: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the distinct scores of one label, high to low, and the counts that reach each of them.

    Args:
        truth: (N,).
        scores: (N,).

    Returns:
        For each distinct score: the score, the positives that reach it, and the people that do.
    """
    order = np.argsort(-scores, kind="stable")
    last = _last_of_ties(scores[order])
    hits = np.cumsum(truth[order], dtype=np.int64)
    return scores[order][last], hits[last], last + 1


def score_bins(scores: FloatArray) -> npt.NDArray[np.int64]:
    """Return the number of the bin of each score, among `CALIBRATION_BINS` of equal width."""
    return np.minimum((scores * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def calibration_error(truth: BoolArray, scores: FloatArray) -> float:
    """Return the expected calibration error of each label, averaged over the labels.

    The bins are those of `score_bins`. Source: Naeini et al., AAAI 2015.

    Raises:
        ValueError: The arrays have different shapes, or no rows.
    """
    check_shapes(truth, scores)
    errors = [_calibration_error(t, s) for t, s in zip(truth.T, scores.T, strict=True)]
    return float(np.mean(errors))


def pooled_calibration_error(truth: BoolArray, scores: FloatArray) -> float:
    """Return the expected calibration error over the decisions about all labels together.

    The errors of labels whose scores are too high and too low cancel each other: a constant score
    equal to the frequency over all labels has the error 0. See `calibration_error`.

    Raises:
        ValueError: The arrays have different shapes, or no rows.
    """
    check_shapes(truth, scores)
    return _calibration_error(truth.ravel(), scores.ravel())


def brier_score(truth: BoolArray, scores: FloatArray) -> float:
    """Return the mean squared difference of scores and ground truth (Brier, 1950)."""
    check_shapes(truth, scores)
    return float(np.mean((scores.astype(np.float64) - truth) ** 2))


def break_even_thresholds(truth: BoolArray, scores: FloatArray) -> FloatArray:
    """Return thresholds at which precision equals recall, (L,).

    This is the protocol of EMOTIC, applied to validation data: as many people have a score above
    the threshold as have the label. The threshold lies halfway between the lowest score above and
    the highest score below it. A label without a positive has the threshold infinity.
    """
    check_shapes(truth, scores)
    thresholds = np.full(truth.shape[1], np.inf)
    for label in range(truth.shape[1]):
        if positives := int(truth[:, label].sum()):
            ordered = np.sort(scores[:, label].astype(np.float64))
            lower = ordered[ordered < ordered[-positives]]
            thresholds[label] = (ordered[-positives] + (lower[-1] if len(lower) else 0.0)) / 2
    return thresholds


def f_beta_thresholds(truth: BoolArray, scores: FloatArray, beta: float) -> FloatArray:
    """Return thresholds at which the F-beta score is best, (L,).

    A beta above 1 weights recall more than precision, a beta below 1 less. The position
    between two scores and the case without a positive are as in `break_even_thresholds`.

    Raises:
        ValueError: beta is not above 0, or the arrays have different shapes or no rows.
    """
    check_shapes(truth, scores)
    if not beta > 0:
        raise ValueError(f"cannot use beta = {beta}: choose a number above 0, such as 1 or 2")
    thresholds = np.full(truth.shape[1], np.inf)
    for label in range(truth.shape[1]):
        if positives := truth[:, label].sum():
            values, hits, predicted = curve(truth[:, label], scores[:, label].astype(np.float64))
            f = (1 + beta**2) * hits / (beta**2 * positives + predicted)
            best = int(f.argmax())
            lower = values[best + 1] if best + 1 < len(values) else 0.0
            thresholds[label] = (values[best] + lower) / 2
    return thresholds


def vad_error(truth: FloatArray, estimate: FloatArray) -> FloatArray:
    """Return the mean absolute error of valence, arousal and dominance, (3,), in their unit."""
    if truth.shape != estimate.shape or truth.ndim != 2 or not len(truth):
        raise ValueError(
            f"cannot compare arrays of shapes {truth.shape} and {estimate.shape}: expected (N, 3), "
            "N > 0"
        )
    return np.abs(truth.astype(np.float64) - estimate).mean(axis=0)  # type: ignore[no-any-return]


def check_shapes(truth: BoolArray, other: npt.NDArray[np.generic]) -> None:
    """Check that both arrays are (N, L) with N > 0.

    Raises:
        ValueError: They are not.
    """
    if truth.shape != other.shape or truth.ndim != 2:
        raise ValueError(
            f"cannot compare arrays of shapes {truth.shape} and {other.shape}: expected (N, L)"
        )
    if not len(truth):
        raise ValueError("cannot compute metrics: there are no people")


def _check_rounds(rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"cannot bootstrap with {rounds} rounds: at least 1 is needed")


def _draw(random: np.random.Generator, rounds: int, people: int) -> npt.NDArray[np.float32]:
    """Return how often each person is drawn, with replacement, (rounds, people)."""
    picks = random.integers(0, people, (rounds, people))
    return np.stack([np.bincount(row, minlength=people) for row in picks]).astype(np.float32)


def _counts(truth: BoolArray, predicted: BoolArray) -> npt.NDArray[np.float64]:
    """Return a row per person, (N, 3 L + 2).

    It has hits, false alarms and misses per label, the share of wrong decisions, and 1 if there is
    no wrong decision.
    """
    check_shapes(truth, predicted)
    wrong = truth != predicted
    return np.column_stack(
        [
            *(truth & predicted, ~truth & predicted, truth & ~predicted),
            *(wrong.mean(axis=1), ~wrong.any(axis=1)),
        ]
    ).astype(np.float64)


def _metrics_from_counts(means: npt.NDArray[np.float64], labels: int) -> npt.NDArray[np.float64]:
    """Return the five metrics for each of R rows of mean counts, (R, 5)."""
    hits, alarms, misses = (means[:, i * labels : (i + 1) * labels] for i in range(3))
    precision = _ratio(hits, hits + alarms)
    recall = _ratio(hits, hits + misses)
    f1 = _ratio(2 * hits, 2 * hits + alarms + misses)
    averages = [metric.mean(axis=1) for metric in (precision, recall, f1)]
    return np.column_stack([*averages, means[:, -2], means[:, -1]])


def _calibration_error(truth: BoolArray, scores: FloatArray) -> float:
    """Return the expected calibration error of (N,) decisions."""
    values = scores.astype(np.float64)
    gaps = np.bincount(score_bins(values), values - truth, CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(values))


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    kept = values[(values >= low) & (values <= high)]
    return Interval(float(low), float(high), float(kept.std()))


def _last_of_ties(ordered: FloatArray) -> npt.NDArray[np.int64]:
    """Return the index of the last of each group of equal scores: they are predicted together."""
    return np.flatnonzero(np.append(np.diff(ordered) != 0, True))


def _average_precision(truth: BoolArray, scores: FloatArray) -> float:
    if not (positives := truth.sum()):
        return float("nan")
    _, hits, predicted = curve(truth, scores)
    return float(np.sum(np.diff(hits / positives, prepend=0.0) * hits / predicted))
