"""Smoothing, ageing, thresholds and the leading label, by hand-computed cases."""

import numpy as np
import pytest

from emotion_perception.core.logits import logit, probability
from emotion_perception.core.values import Assessment, Box, Status, Track, Vad
from emotion_perception.perception.estimates import Estimates
from emotion_perception.testing.fakes import SECOND_NS

ALICE = Track("p00001", Box(0, 0, 10, 20), 0.9)


def estimates(labels=("engagement", "fear"), thresholds=(0.5, 0.5)):
    held = Estimates(labels, np.array(thresholds))
    held.retain({ALICE.person_id})
    return held


def answer(seconds, scores, vad=None):
    return Assessment(ALICE.person_id, round(seconds * SECOND_NS), np.array(scores), vad)


def test_the_leading_label_is_the_one_furthest_above_its_own_threshold():
    held = estimates(thresholds=(0.8, 0.05))
    held.update([answer(1, [0.85, 0.4])])
    estimate = held.at(ALICE, SECOND_NS, 5.0)
    assert estimate.label == "fear"
    assert estimate.active == ("fear", "engagement")
    assert estimate.confidence == pytest.approx(0.4)


def test_no_label_above_its_threshold_is_an_abstention_that_keeps_the_scores():
    held = estimates()
    held.update([answer(1, [0.3, 0.2])])
    estimate = held.at(ALICE, SECOND_NS, 5.0)
    assert (estimate.status, estimate.reason) == (Status.ABSTAINED, "no label stands out")
    assert estimate.label == ""
    assert estimate.scores == pytest.approx([0.3, 0.2])


def test_smoothing_averages_log_odds_with_the_weight_of_the_elapsed_time():
    held = estimates()
    held.update([answer(0, [0.9, 0.1])], smoothing=2.0)
    held.update([answer(1, [0.5, 0.5])], smoothing=2.0)
    kept = np.exp(-1 / 2)
    estimate = held.at(ALICE, SECOND_NS, 5.0)
    assert estimate.scores == pytest.approx(probability(kept * logit(np.array([0.9, 0.1]))))
    assert estimate.raw_scores == pytest.approx([0.5, 0.5])


def test_without_smoothing_the_newest_answer_stands():
    held = estimates()
    held.update([answer(0, [0.9, 0.1])])
    held.update([answer(1, [0.2, 0.7])])
    assert held.at(ALICE, SECOND_NS, 5.0).scores == pytest.approx([0.2, 0.7])


def test_affect_is_smoothed_too_and_stays_none_where_nobody_estimated_it():
    held = estimates()
    held.update([answer(0, [0.9, 0.1], Vad(1.0, 0.0, -1.0))], smoothing=1.0)
    held.update([answer(1, [0.9, 0.1], Vad(0.0, 0.0, 0.0))], smoothing=1.0)
    kept = float(np.exp(-1))
    assert held.at(ALICE, SECOND_NS, 5.0).vad == pytest.approx((kept, 0.0, -kept))
    other = estimates()
    other.update([answer(0, [0.9, 0.1])])
    assert other.at(ALICE, 0, 5.0).vad is None


def test_scores_of_exactly_zero_and_one_stay_finite():
    held = estimates()
    held.update([answer(0, [1.0, 0.0])], smoothing=1.0)
    held.update([answer(1, [0.0, 1.0])], smoothing=1.0)
    assert np.all(np.isfinite(held.at(ALICE, SECOND_NS, 5.0).scores))


def test_an_abstention_does_not_hide_an_answer_that_is_still_fresh():
    held = estimates()
    held.update([answer(1, [0.9, 0.1])])
    held.update([Assessment(ALICE.person_id, 2 * SECOND_NS, None, reason="blurred")])
    assert held.at(ALICE, 2 * SECOND_NS, 5.0).status is Status.ASSESSED
    late = held.at(ALICE, round(6.5 * SECOND_NS), 5.0)
    assert (late.status, late.reason) == (Status.ABSTAINED, "blurred")
    assert held.at(ALICE, 9 * SECOND_NS, 5.0).status is Status.EXPIRED


def test_somebody_who_was_forgotten_is_pending_again():
    held = estimates()
    held.update([answer(1, [0.9, 0.1])])
    held.retain(())
    held.retain({ALICE.person_id})
    assert held.at(ALICE, SECOND_NS, 5.0).status is Status.PENDING


@pytest.mark.parametrize("thresholds", [[0.5], [0.0, 0.5], [0.5, 1.0], [float("nan"), 0.5]])
def test_thresholds_that_do_not_fit_are_refused(thresholds):
    with pytest.raises(ValueError, match="one threshold between 0 and 1 for each of the 2 labels"):
        Estimates(("a", "b"), np.array(thresholds))


def test_an_answer_with_the_wrong_number_of_scores_is_refused():
    with pytest.raises(ValueError, match="expected \\(2,\\)"):
        estimates().update([answer(1, [0.5, 0.5, 0.5])])


@pytest.mark.parametrize("scores", [[1.2, 0.1], [-0.1, 0.5], [float("nan"), 0.5]])
def test_scores_that_are_no_probabilities_are_refused(scores):
    with pytest.raises(ValueError, match="outside \\[0, 1\\]"):
        answer(1, scores)
