"""Identities over time, by cases that can be counted by hand."""

import pytest

from emotion_perception.core.values import Box
from emotion_perception.evaluation.tracking_metrics import identities, iou, match

LEFT, RIGHT = Box(0, 0, 10, 20), Box(30, 0, 40, 20)
TRUTH = {stamp: {"ann": LEFT, "bob": RIGHT} for stamp in range(4)}


def test_overlap_is_shared_over_united_area():
    assert iou(LEFT, LEFT) == 1
    assert iou(LEFT, RIGHT) == 0
    assert iou(LEFT, Box(5, 0, 15, 20)) == pytest.approx(1 / 3)
    assert iou(Box(0, 0, 0, 0), Box(0, 0, 0, 0)) == 0


def test_each_is_matched_once_and_only_where_boxes_overlap_enough():
    assert match(TRUTH[0], {"a": LEFT, "b": LEFT}) == {"a": "ann"}
    assert match(TRUTH[0], {"a": Box(6, 0, 16, 20)}) == {}
    assert match({}, {"a": LEFT}) == {}


def test_who_is_found_under_one_name_throughout_scores_one():
    found = {stamp: {"a": LEFT, "b": RIGHT} for stamp in range(4)}
    assert identities(TRUTH, found) == (1.0, 1.0, 0)


def test_a_switch_of_names_costs_the_shorter_half():
    found = {s: {"a" if s < 3 else "c": LEFT, "b": RIGHT} for s in range(4)}
    # Kept: 3 of ann and 4 of bob; 8 true and 8 found boxes.
    assert identities(TRUTH, found) == (pytest.approx(2 * 7 / 16), 1.0, 1)


def test_phantoms_and_misses_count_against_it():
    found = {s: {"a": LEFT, "x": Box(80, 0, 90, 20)} for s in range(4)}
    assert identities(TRUTH, found) == (pytest.approx(2 * 4 / 16), 0.5, 0)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="1 stamps have no truth, 9"):
        identities(TRUTH, {9: {}})
    with pytest.raises(ValueError, match="nobody is there"):
        identities({0: {}}, {0: {}})
