"""Metrics: hand-computed cases, and agreement with scikit-learn."""

from dataclasses import astuple

import numpy as np
import pytest
from sklearn import metrics as sklearn

from emotion_perception.evaluation import metrics

# Three people and three labels: two hits on the first label, one miss, one false alarm.
TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
PREDICTED = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1]], bool)


def random_data(people=7203, labels=26, seed=0):
    random = np.random.default_rng(seed)
    truth = random.random((people, labels)) < random.uniform(0.02, 0.7, labels)
    # Rounded so that there are many ties.
    scores = np.round(np.clip(truth * 0.3 + random.random((people, labels)) * 0.7, 0, 1), 2)
    return truth, scores


def test_decision_metrics_match_values_computed_by_hand():
    values = metrics.decision_metrics(TRUTH, PREDICTED)
    assert values.precision == pytest.approx((1 + 0 + 0.5) / 3)
    assert values.recall == pytest.approx((1 + 0 + 1) / 3)
    assert values.f1 == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert values.hamming == pytest.approx(2 / 9)
    assert values.subset == pytest.approx(2 / 3)


def test_metrics_agree_with_scikit_learn():
    truth, scores = random_data()
    predicted = scores > 0.5
    values = metrics.decision_metrics(truth, predicted)
    options = {"average": "macro", "zero_division": 0}
    expected = [
        sklearn.precision_score(truth, predicted, **options),
        sklearn.recall_score(truth, predicted, **options),
        sklearn.f1_score(truth, predicted, **options),
        sklearn.hamming_loss(truth, predicted),
        sklearn.accuracy_score(truth, predicted),
    ]
    assert np.abs(np.subtract(astuple(values), expected)).max() < 1e-9
    ap = sklearn.average_precision_score(truth, scores, average=None)
    assert np.abs(metrics.average_precision(truth, scores) - ap).max() < 1e-9
    squared = sklearn.brier_score_loss(truth.ravel(), scores.ravel())
    assert metrics.brier_score(truth, scores) == pytest.approx(squared, abs=1e-9)


def plain_round(truth, predicted, random):
    """Return the metrics of one draw of people, computed directly."""
    drawn = random.integers(0, len(truth), len(truth))
    return astuple(metrics.decision_metrics(truth[drawn], predicted[drawn]))


def test_bootstrap_equals_a_plain_loop_over_the_same_draws():
    truth, scores = random_data(people=60, labels=4)
    predicted = scores > 0.5
    rounds = 1100  # more than one chunk
    intervals = metrics.bootstrap_decisions(truth, predicted, rounds, seed=1)
    random = np.random.default_rng(1)
    values = np.array([plain_round(truth, predicted, random) for _ in range(rounds)])
    assert list(intervals) == ["precision", "recall", "f1", "hamming", "subset"]
    for interval, plain in zip(intervals.values(), values.T, strict=True):
        low, high = np.percentile(plain, (2.5, 97.5))
        kept = [value for value in plain if low <= value <= high]
        assert astuple(interval) == pytest.approx((low, high, np.std(kept)), rel=1e-3)


class CountingArray(np.ndarray):
    """An array that counts the operations on it."""

    operations = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        CountingArray.operations += 1
        return getattr(ufunc, method)(*(np.asarray(x) for x in inputs), **options)


def test_bootstrap_reads_the_arrays_once_for_any_number_of_rounds():
    truth, scores = random_data(people=40, labels=3)
    counts = []
    for rounds in (1, 1000):
        CountingArray.operations = 0
        metrics.bootstrap_decisions(truth.view(CountingArray), scores > 0.5, rounds)
        counts.append(CountingArray.operations)
    assert counts[0] == counts[1] > 0


def test_bootstrap_is_repeatable():
    truth, scores = random_data(people=50, labels=3)
    assert metrics.bootstrap_decisions(truth, scores > 0.5, 100) == metrics.bootstrap_decisions(
        truth, scores > 0.5, 100
    )


def test_average_precision_with_a_tie_matches_the_value_computed_by_hand():
    truth = np.array([[1], [0], [1], [0]], bool)
    scores = np.array([[0.9], [0.5], [0.5], [0.1]])
    # One hit of one; then two of three, since tied people count at once.
    assert metrics.average_precision(truth, scores) == pytest.approx([0.5 * 1 + 0.5 * 2 / 3])


def test_hard_labels_have_no_average_precision():
    with pytest.raises(ValueError, match="needs scores, not labels"):
        metrics.average_precision(TRUTH, PREDICTED.astype(float))


def test_label_that_never_occurs_is_left_out_of_the_mean():
    truth = np.array([[1, 0], [0, 0], [0, 0]], bool)
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.4]])
    assert np.isnan(metrics.average_precision(truth, scores)[1])
    assert metrics.mean_average_precision(truth, scores) == 1.0


def test_break_even_thresholds_predict_as_many_people_as_have_the_label():
    truth, scores = random_data(people=500, labels=4)
    scores = scores + np.random.default_rng(0).random(scores.shape) * 1e-6  # no ties
    predicted = scores > metrics.break_even_thresholds(truth, scores)
    assert (predicted.sum(axis=0) == truth.sum(axis=0)).all()


def test_f_beta_thresholds_are_the_best_of_all_thresholds():
    truth, scores = random_data(people=200, labels=3)
    thresholds = metrics.f_beta_thresholds(truth, scores, beta=2.0)
    for label in range(3):
        t, s = truth[:, label], scores[:, label]
        candidates = [sklearn.fbeta_score(t, s >= value, beta=2.0) for value in np.unique(s)]
        assert sklearn.fbeta_score(t, s > thresholds[label], beta=2.0) == pytest.approx(
            max(candidates)
        )
    with pytest.raises(ValueError, match="beta = 0"):
        metrics.f_beta_thresholds(truth, scores, 0)


def test_interval_of_map_equals_that_of_a_plain_loop():
    truth, scores = random_data(people=80, labels=5)
    scores = np.round(scores, 1)  # so that there are ties
    fast = metrics.bootstrap_map(truth, scores, rounds=300, seed=3)
    random = np.random.default_rng(3)
    picks = random.integers(0, 80, (300, 80))
    slow = [metrics.mean_average_precision(truth[rows], scores[rows]) for rows in picks]
    assert (fast.low, fast.high) == pytest.approx(tuple(np.percentile(slow, (2.5, 97.5))), abs=1e-6)


def test_calibration_error_of_calibrated_and_overconfident_scores():
    truth = np.tile([[True], [False]], (500, 1))
    for error in (metrics.calibration_error, metrics.pooled_calibration_error):
        assert error(truth, np.full(truth.shape, 0.5)) == pytest.approx(0.0)
        assert error(truth, np.full(truth.shape, 1.0)) == pytest.approx(0.5)


def test_pooling_hides_calibration_errors_of_labels_that_cancel():
    truth = np.zeros((1000, 4), bool)
    for label, positives in enumerate((100, 300, 500, 700)):
        truth[:positives, label] = True
    constant = np.full(truth.shape, truth.mean())  # 0.4 for each label
    assert metrics.pooled_calibration_error(truth, constant) == pytest.approx(0.0)
    assert metrics.calibration_error(truth, constant) == pytest.approx((0.3 + 0.1 + 0.1 + 0.3) / 4)


def test_calibration_error_is_the_mean_of_the_labels():
    truth, scores = random_data()
    by_label = [
        metrics.pooled_calibration_error(truth[:, i : i + 1], scores[:, i : i + 1])
        for i in range(truth.shape[1])
    ]
    assert metrics.calibration_error(truth, scores) == pytest.approx(np.mean(by_label))
    assert metrics.calibration_error(truth, scores) > metrics.pooled_calibration_error(
        truth, scores
    )


def test_vad_error_matches_values_computed_by_hand():
    error = metrics.vad_error(np.array([[1.0, 5, 9]]), np.array([[2.0, 5, 7]]))
    assert error == pytest.approx([1, 0, 2])


@pytest.mark.parametrize(
    "measure", [metrics.decision_metrics, metrics.average_precision, metrics.brier_score]
)
def test_arrays_that_do_not_fit_are_an_error(measure):
    with pytest.raises(ValueError, match="cannot compare arrays of shapes"):
        measure(TRUTH, TRUTH[:, :2])
    with pytest.raises(ValueError, match="there are no people"):
        measure(TRUTH[:0], TRUTH[:0])
