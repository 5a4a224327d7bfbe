"""The measures, by hand-computed cases and against scikit-learn."""

import time

import numpy as np
import pytest
from sklearn.metrics import fbeta_score

from emotion_perception.evaluation import metrics

# Three people, three labels: hits on the first two, a miss and a false alarm.
TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
CHOSEN = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1]], bool)


def random_data(people=7203, labels=26, seed=0):
    random = np.random.default_rng(seed)
    truth = random.random((people, labels)) < random.uniform(0.02, 0.7, labels)
    # Rounded, so that there are many ties.
    scores = np.round(np.clip(truth * 0.3 + random.random((people, labels)) * 0.7, 0, 1), 2)
    return truth, scores


def test_decisions_by_hand():
    found = metrics.decisions(TRUTH, CHOSEN)
    assert found.precision == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.recall == pytest.approx((1 + 0 + 1) / 3)
    assert found.f1 == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert found.hamming == pytest.approx(2 / 9)
    assert found.subset == pytest.approx(2 / 3)


def test_all_measures_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, scores = random_data()
    chosen = scores > 0.5
    found = metrics.decisions(truth, chosen)
    how = {"average": "macro", "zero_division": 0}
    expected = [
        sklearn.precision_score(truth, chosen, **how),
        sklearn.recall_score(truth, chosen, **how),
        sklearn.f1_score(truth, chosen, **how),
        sklearn.hamming_loss(truth, chosen),
        sklearn.accuracy_score(truth, chosen),
    ]
    got = [found.precision, found.recall, found.f1, found.hamming, found.subset]
    assert np.abs(np.subtract(got, expected)).max() < 1e-9
    ap = sklearn.average_precision_score(truth, scores, average=None)
    assert np.abs(metrics.average_precision(truth, scores) - ap).max() < 1e-9
    squared = sklearn.brier_score_loss(truth.ravel(), scores.ravel())
    assert metrics.brier(truth, scores) == pytest.approx(squared, abs=1e-9)


def test_the_bootstrap_agrees_with_a_plain_loop():
    truth, scores = random_data(people=200, labels=5)
    chosen = scores > 0.5
    found = metrics.bootstrap(truth, chosen, rounds=2000, seed=1)
    random = np.random.default_rng(2)
    plain = []
    for _ in range(2000):
        drawn = random.integers(0, 200, 200)
        plain.append(metrics.decisions(truth[drawn], chosen[drawn]).f1)
    low, high = np.percentile(plain, (2.5, 97.5))
    assert found["f1"].low == pytest.approx(low, abs=0.01)
    assert found["f1"].high == pytest.approx(high, abs=0.01)


def test_a_bootstrap_of_the_paper_takes_about_as_long_as_2000_scikit_learn_scores():
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, scores = random_data()
    chosen = scores > 0.5
    start = time.perf_counter()
    sklearn.f1_score(truth, chosen, average="macro")
    one = time.perf_counter() - start
    start = time.perf_counter()
    metrics.bootstrap(truth, chosen)
    assert time.perf_counter() - start < 2000 * one


def test_the_same_seed_draws_the_same_people():
    truth, scores = random_data(people=50, labels=3)
    assert metrics.bootstrap(truth, scores > 0.5, 100) == metrics.bootstrap(
        truth, scores > 0.5, 100
    )


def test_average_precision_by_hand_with_a_tie():
    truth = np.array([[1], [0], [1], [0]], bool)
    scores = np.array([[0.9], [0.5], [0.5], [0.1]])
    # One of one; then two of three, both tied people at once.
    assert metrics.average_precision(truth, scores) == pytest.approx([0.5 * 1 + 0.5 * 2 / 3])


def test_hard_labels_have_no_average_precision():
    with pytest.raises(ValueError, match="needs scores, not labels"):
        metrics.average_precision(TRUTH, CHOSEN.astype(float))


def test_a_label_that_never_occurs_is_left_out_of_the_mean():
    truth = np.array([[1, 0], [0, 0], [0, 0]], bool)
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.1, 0.4]])
    assert np.isnan(metrics.average_precision(truth, scores)[1])
    assert metrics.mean_average_precision(truth, scores) == 1.0


def test_thresholds_choose_as_many_as_are_true():
    truth, scores = random_data(people=500, labels=4)
    scores = scores + np.random.default_rng(0).random(scores.shape) * 1e-6  # no ties
    chosen = scores > metrics.thresholds(truth, scores)
    assert (chosen.sum(axis=0) == truth.sum(axis=0)).all()


def test_f_thresholds_are_where_f_is_best_of_all_places():
    truth, scores = random_data(people=200, labels=3)
    found = metrics.f_thresholds(truth, scores, beta=2.0)
    for label in range(3):
        t, s = truth[:, label], scores[:, label]
        every = [fbeta_score(t, s >= value, beta=2.0) for value in np.unique(s)]
        assert fbeta_score(t, s > found[label], beta=2.0) == pytest.approx(max(every))
    with pytest.raises(ValueError, match="beta = 0"):
        metrics.f_thresholds(truth, scores, 0)


def test_the_interval_of_map_agrees_with_a_plain_loop():
    truth, scores = random_data(people=80, labels=5)
    scores = np.round(scores, 1)  # ties, too
    fast = metrics.bootstrap_precision(truth, scores, rounds=300, seed=3)
    random = np.random.default_rng(3)
    picks = random.integers(0, 80, (300, 80))
    slow = [metrics.mean_average_precision(truth[rows], scores[rows]) for rows in picks]
    assert (fast.low, fast.high) == pytest.approx(tuple(np.percentile(slow, (2.5, 97.5))), abs=1e-6)


def test_a_calibrated_coin_has_no_calibration_error_and_a_boastful_one_has():
    truth = np.tile([[True], [False]], (500, 1))
    assert metrics.calibration_error(truth, np.full(truth.shape, 0.5)) == pytest.approx(0.0)
    assert metrics.calibration_error(truth, np.full(truth.shape, 1.0)) == pytest.approx(0.5)


def test_affect_error_by_hand():
    error = metrics.affect_error(np.array([[1.0, 5, 9]]), np.array([[2.0, 5, 7]]))
    assert error == pytest.approx([1, 0, 2])


@pytest.mark.parametrize("measure", [metrics.decisions, metrics.average_precision, metrics.brier])
def test_what_does_not_fit_is_refused(measure):
    with pytest.raises(ValueError, match="do not fit"):
        measure(TRUTH, TRUTH[:, :2])
    with pytest.raises(ValueError, match="nobody to evaluate"):
        measure(TRUTH[:0], TRUTH[:0])
