"""Smoothing, ageing, thresholds and the leading label, on cases computed by hand."""

import numpy as np
import pytest

from emotion_perception.core.logits import logit, probability
from emotion_perception.core.values import Assessment, Box, Status, Track, Vad
from emotion_perception.perception.estimates import Estimates
from emotion_perception.testing.fakes import SECOND_NS

ALICE = Track("p00001", Box(0, 0, 10, 20), 0.9)


def estimates(labels=("engagement", "fear"), thresholds=(0.5, 0.5)):
    state = Estimates(labels, np.array(thresholds))
    state.retain({ALICE.person_id})
    return state


def assessment(seconds, scores, vad=None):
    return Assessment(ALICE.person_id, round(seconds * SECOND_NS), np.array(scores), vad)


def test_leading_label_is_furthest_above_its_threshold():
    state = estimates(thresholds=(0.8, 0.05))
    state.update([assessment(1, [0.85, 0.4])])
    estimate = state.at(ALICE, SECOND_NS, 5.0)
    assert estimate.label == "fear"
    assert estimate.active == ("fear", "engagement")
    assert estimate.confidence == pytest.approx(0.4)


def test_abstention_without_a_label_above_its_threshold_keeps_the_scores():
    state = estimates()
    state.update([assessment(1, [0.3, 0.2])])
    estimate = state.at(ALICE, SECOND_NS, 5.0)
    assert (estimate.status, estimate.reason) == (Status.ABSTAINED, "no label stands out")
    assert estimate.label == ""
    assert estimate.scores == pytest.approx([0.3, 0.2])


def test_smoothing_averages_log_odds_weighted_by_elapsed_time():
    state = estimates()
    state.update([assessment(0, [0.9, 0.1])], smoothing=2.0)
    state.update([assessment(1, [0.5, 0.5])], smoothing=2.0)
    weight = np.exp(-1 / 2)
    estimate = state.at(ALICE, SECOND_NS, 5.0)
    assert estimate.scores == pytest.approx(probability(weight * logit(np.array([0.9, 0.1]))))
    assert estimate.raw_scores == pytest.approx([0.5, 0.5])


def test_without_smoothing_the_newest_assessment_counts():
    state = estimates()
    state.update([assessment(0, [0.9, 0.1])])
    state.update([assessment(1, [0.2, 0.7])])
    assert state.at(ALICE, SECOND_NS, 5.0).scores == pytest.approx([0.2, 0.7])


def test_vad_is_smoothed_and_stays_none_without_a_vad():
    state = estimates()
    state.update([assessment(0, [0.9, 0.1], Vad(1.0, 0.0, -1.0))], smoothing=1.0)
    state.update([assessment(1, [0.9, 0.1], Vad(0.0, 0.0, 0.0))], smoothing=1.0)
    weight = float(np.exp(-1))
    assert state.at(ALICE, SECOND_NS, 5.0).vad == pytest.approx((weight, 0.0, -weight))
    other = estimates()
    other.update([assessment(0, [0.9, 0.1])])
    assert other.at(ALICE, 0, 5.0).vad is None


def test_scores_of_zero_and_one_stay_finite():
    state = estimates()
    state.update([assessment(0, [1.0, 0.0])], smoothing=1.0)
    state.update([assessment(1, [0.0, 1.0])], smoothing=1.0)
    assert np.all(np.isfinite(state.at(ALICE, SECOND_NS, 5.0).scores))


def test_abstention_does_not_replace_an_assessment_before_it_expires():
    state = estimates()
    state.update([assessment(1, [0.9, 0.1])])
    state.update([Assessment(ALICE.person_id, 2 * SECOND_NS, None, reason="blurred")])
    assert state.at(ALICE, 2 * SECOND_NS, 5.0).status is Status.ASSESSED
    late = state.at(ALICE, round(6.5 * SECOND_NS), 5.0)
    assert (late.status, late.reason) == (Status.ABSTAINED, "blurred")
    assert state.at(ALICE, 9 * SECOND_NS, 5.0).status is Status.EXPIRED


def test_person_who_was_not_retained_is_pending_again():
    state = estimates()
    state.update([assessment(1, [0.9, 0.1])])
    state.retain(())
    state.retain({ALICE.person_id})
    assert state.at(ALICE, SECOND_NS, 5.0).status is Status.PENDING


@pytest.mark.parametrize("thresholds", [[0.5], [0.0, 0.5], [0.5, 1.0], [float("nan"), 0.5]])
def test_invalid_thresholds_raise_an_error(thresholds):
    with pytest.raises(ValueError, match="one threshold between 0 and 1 for each of the 2 labels"):
        Estimates(("a", "b"), np.array(thresholds))


def test_wrong_number_of_scores_raises_an_error():
    with pytest.raises(ValueError, match="expected \\(2,\\)"):
        estimates().update([assessment(1, [0.5, 0.5, 0.5])])


@pytest.mark.parametrize("scores", [[1.2, 0.1], [-0.1, 0.5], [float("nan"), 0.5]])
def test_scores_outside_0_to_1_raise_an_error(scores):
    with pytest.raises(ValueError, match="outside \\[0, 1\\]"):
        assessment(1, scores)


def test_last_digits_of_scores_choose_no_leading_label():
    held = estimates(thresholds=(0.1, 0.1))
    scores = np.array([0.7, 0.7 + 1e-15])
    assert logit(scores)[1] > logit(scores)[0]
    held.update([assessment(0, scores)])
    assert held.at(ALICE, 0, 1.0).label == "engagement"
