"""The measures, by hand-computed cases and against scikit-learn."""

import time
from dataclasses import astuple

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
    found = metrics.decision_metrics(TRUTH, CHOSEN)
    assert found.precision == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.recall == pytest.approx((1 + 0 + 1) / 3)
    assert found.f1 == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert found.hamming == pytest.approx(2 / 9)
    assert found.subset == pytest.approx(2 / 3)


def test_all_measures_agree_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    truth, scores = random_data()
    chosen = scores > 0.5
    found = metrics.decision_metrics(truth, chosen)
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
    assert metrics.brier_score(truth, scores) == pytest.approx(squared, abs=1e-9)


def plain_round(truth, chosen, random):
    """The five figures of one draw of people, without any trick."""
    drawn = random.integers(0, len(truth), len(truth))
    return astuple(metrics.decision_metrics(truth[drawn], chosen[drawn]))


def test_the_bootstrap_is_a_plain_loop_over_the_same_draws():
    truth, scores = random_data(people=60, labels=4)
    chosen = scores > 0.5
    rounds = 2 * metrics._CHUNK + 100
    found = metrics.bootstrap_decisions(truth, chosen, rounds, seed=1)
    random = np.random.default_rng(1)
    figures = np.array([plain_round(truth, chosen, random) for _ in range(rounds)])
    assert list(found) == ["precision", "recall", "f1", "hamming", "subset"]
    for interval, plain in zip(found.values(), figures.T, strict=True):
        low, high = np.percentile(plain, (2.5, 97.5))
        kept = [figure for figure in plain if low <= figure <= high]
        assert astuple(interval) == pytest.approx((low, high, np.std(kept)), rel=1e-3)


def test_a_bootstrap_of_the_paper_takes_a_fifth_of_a_plain_loop_at_most():
    """Which takes about a minute on one core, where the bootstrap has to stay below half of one."""
    truth, scores = random_data()
    chosen = scores > 0.5
    random = np.random.default_rng(0)
    rounds = []
    for _ in range(20):
        start = time.perf_counter()
        plain_round(truth, chosen, random)
        rounds.append(time.perf_counter() - start)
    start = time.perf_counter()
    metrics.bootstrap_decisions(truth, chosen)
    assert time.perf_counter() - start < metrics.BOOTSTRAP_ROUNDS * min(rounds) / 5


def test_the_same_seed_draws_the_same_people():
    truth, scores = random_data(people=50, labels=3)
    assert metrics.bootstrap_decisions(truth, scores > 0.5, 100) == metrics.bootstrap_decisions(
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
    chosen = scores > metrics.break_even_thresholds(truth, scores)
    assert (chosen.sum(axis=0) == truth.sum(axis=0)).all()


def test_f_thresholds_are_where_f_is_best_of_all_places():
    truth, scores = random_data(people=200, labels=3)
    found = metrics.f_beta_thresholds(truth, scores, beta=2.0)
    for label in range(3):
        t, s = truth[:, label], scores[:, label]
        every = [fbeta_score(t, s >= value, beta=2.0) for value in np.unique(s)]
        assert fbeta_score(t, s > found[label], beta=2.0) == pytest.approx(max(every))
    with pytest.raises(ValueError, match="beta = 0"):
        metrics.f_beta_thresholds(truth, scores, 0)


def test_the_interval_of_map_agrees_with_a_plain_loop():
    truth, scores = random_data(people=80, labels=5)
    scores = np.round(scores, 1)  # ties, too
    fast = metrics.bootstrap_map(truth, scores, rounds=300, seed=3)
    random = np.random.default_rng(3)
    picks = random.integers(0, 80, (300, 80))
    slow = [metrics.mean_average_precision(truth[rows], scores[rows]) for rows in picks]
    assert (fast.low, fast.high) == pytest.approx(tuple(np.percentile(slow, (2.5, 97.5))), abs=1e-6)


def test_a_calibrated_coin_has_no_calibration_error_and_a_boastful_one_has():
    truth = np.tile([[True], [False]], (500, 1))
    assert metrics.calibration_error(truth, np.full(truth.shape, 0.5)) == pytest.approx(0.0)
    assert metrics.calibration_error(truth, np.full(truth.shape, 1.0)) == pytest.approx(0.5)


def test_affect_error_by_hand():
    error = metrics.vad_error(np.array([[1.0, 5, 9]]), np.array([[2.0, 5, 7]]))
    assert error == pytest.approx([1, 0, 2])


@pytest.mark.parametrize(
    "measure", [metrics.decision_metrics, metrics.average_precision, metrics.brier_score]
)
def test_what_does_not_fit_is_refused(measure):
    with pytest.raises(ValueError, match="do not fit"):
        measure(TRUTH, TRUTH[:, :2])
    with pytest.raises(ValueError, match="no people to evaluate"):
        measure(TRUTH[:0], TRUTH[:0])
