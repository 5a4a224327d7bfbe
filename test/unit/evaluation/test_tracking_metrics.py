"""Tracking metrics on cases that can be counted by hand."""

import pytest

from emotion_perception.core.values import Box
from emotion_perception.evaluation.tracking_metrics import match, overlaps, tracking_metrics

LEFT, RIGHT = Box(0, 0, 10, 20), Box(30, 0, 40, 20)
TRUTH = {stamp: {"ann": LEFT, "bob": RIGHT} for stamp in range(4)}


def test_overlap_is_intersection_over_union():
    first = {"a": LEFT, "b": Box(0, 0, 0, 0)}
    second = {"c": LEFT, "d": RIGHT, "e": Box(5, 0, 15, 20)}
    assert overlaps(first, second)[0] == pytest.approx([1, 0, 1 / 3])
    assert overlaps(first, {"f": Box(0, 0, 0, 0)})[1] == 0
    assert overlaps({}, second).shape == (0, 3)


def test_each_person_is_matched_to_at_most_one_track():
    assert match(TRUTH[0], {"a": LEFT, "b": LEFT}) == {"a": "ann"}
    assert match(TRUTH[0], {"a": Box(6, 0, 16, 20)}) == {}
    assert match({}, {"a": LEFT}) == {}


def test_one_track_per_person_over_the_whole_clip_scores_one():
    tracks = {stamp: {"a": LEFT, "b": RIGHT} for stamp in range(4)}
    assert tracking_metrics(TRUTH, tracks) == (1.0, 1.0, 0, 1.0, 1.0)


def test_identity_switch_costs_the_shorter_part_of_the_track():
    tracks = {s: {"a" if s < 3 else "c": LEFT, "b": RIGHT} for s in range(4)}
    metrics = tracking_metrics(TRUTH, tracks)
    # 3 boxes of ann and 4 of bob keep their identity, of 8 true and 8 tracked boxes.
    assert metrics.identity_f1 == pytest.approx(2 * 7 / 16)
    assert metrics.detection_recall == 1.0
    assert metrics.identity_switches == 1
    assert metrics.mota == pytest.approx(1 - 1 / 8)


def test_false_and_missing_tracks_reduce_the_metrics():
    tracks = {s: {"a": LEFT, "x": Box(80, 0, 90, 20)} for s in range(4)}
    metrics = tracking_metrics(TRUTH, tracks)
    assert metrics.identity_f1 == pytest.approx(2 * 4 / 16)
    assert metrics.detection_recall == 0.5
    assert metrics.identity_switches == 0
    assert metrics.mota == 0


def test_sequences_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="1 of 1 stamps have no ground truth, for example 9"):
        tracking_metrics(TRUTH, {9: {}})
    with pytest.raises(ValueError, match="there is no box"):
        tracking_metrics({0: {}}, {0: {}})
