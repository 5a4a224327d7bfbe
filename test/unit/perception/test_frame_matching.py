"""Images and the boxes of another node meet by their stamps."""

import numpy as np
import pytest

from emotion_perception.perception.frame_matching import FrameMatcher, SourceBoxes
from emotion_perception.testing.fakes import frame_at

MS = 10**6


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def matcher(clock):
    return FrameMatcher(tolerance_s=0.005, wait_s=0.5, clock=clock)


def boxes(stamp_ns, normalised=False):
    return SourceBoxes(
        stamp_ns, np.array([[0.25, 0.5, 0.5, 1.0]]), np.array([0.9]), ("a",), normalised
    )


def test_image_waits_for_its_boxes(matcher, clock):
    assert matcher.add_image(100 * MS, "first") is None
    clock.seconds = 0.2
    match = matcher.add_boxes(boxes(100 * MS))
    assert (match.image, match.held_s) == ("first", 0.2)
    assert matcher.dropped == 0


def test_boxes_wait_for_their_image(matcher):
    assert matcher.add_boxes(boxes(100 * MS)) is None
    match = matcher.add_image(103 * MS, "first")
    assert (match.image, match.boxes.stamp_ns) == ("first", 100 * MS)


def test_nearest_image_within_the_tolerance_is_taken(matcher):
    for stamp_ns in (92 * MS, 98 * MS, 101 * MS, 110 * MS):
        matcher.add_image(stamp_ns, stamp_ns)
    assert matcher.add_boxes(boxes(100 * MS)).image == 101 * MS
    assert matcher.add_boxes(boxes(104 * MS)) is None
    assert matcher.add_boxes(boxes(110 * MS)).image == 110 * MS


def test_images_that_a_slow_source_left_out_are_not_counted(matcher):
    for number in range(10):
        matcher.add_image(number * 33 * MS, number)
    assert matcher.add_boxes(boxes(9 * 33 * MS)).image == 9
    assert matcher.add_boxes(boxes(3 * 33 * MS)) is None
    assert matcher.dropped == 0


def test_image_without_boxes_is_dropped_and_counted_after_the_wait(matcher, clock):
    matcher.add_image(100 * MS, "first")
    clock.seconds = 0.6
    matcher.add_image(700 * MS, "second")
    assert matcher.dropped == 1
    assert not matcher.late
    assert matcher.add_boxes(boxes(100 * MS)) is None
    assert matcher.late
    assert matcher.add_boxes(boxes(700 * MS)).image == "second"
    assert not matcher.late


def test_number_of_images_that_wait_is_bounded(matcher):
    for number in range(100):
        matcher.add_image(number * 33 * MS, number)
    assert matcher.dropped == 70
    assert matcher.add_boxes(boxes(0)) is None
    assert matcher.add_boxes(boxes(70 * 33 * MS)).image == 70


def test_clock_that_is_set_back_drops_what_waits(matcher):
    matcher.add_image(10_000 * MS, "before")
    matcher.add_image(100 * MS, "after")
    assert matcher.add_boxes(boxes(10_000 * MS)) is None
    assert matcher.dropped == 0
    assert matcher.add_boxes(boxes(100 * MS)).image == "after"


def test_boxes_that_come_first_are_kept_after_the_clock_is_set_back(matcher, clock):
    matcher.add_image(10_000 * MS, "dropped")
    clock.seconds = 0.6
    matcher.add_image(10_600 * MS, "matched")
    matcher.add_boxes(boxes(10_600 * MS))
    matcher.add_image(100 * MS, "after")
    assert matcher.add_boxes(boxes(133 * MS)) is None
    assert matcher.add_image(133 * MS, "next").image == "next"


def test_boxes_in_shares_become_pixels_of_the_frame():
    frame = frame_at(1.0)
    (corners,) = boxes(0, normalised=True).detections(frame, with_ids=True).corners
    assert corners.tolist() == [frame.width / 4, frame.height / 2, frame.width / 2, frame.height]
    (corners,) = boxes(0).detections(frame, with_ids=False).corners
    assert corners.tolist() == [0.25, 0.5, 0.5, 1.0]
    assert boxes(0).detections(frame, with_ids=False).ids is None
