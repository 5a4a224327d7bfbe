"""Drawing of boxes and labels."""

import numpy as np

from emotion_perception.core.values import Box, Estimate, PeopleEstimate, Status, Track
from emotion_perception.io.overlay import draw_overlay
from emotion_perception.testing.fakes import frame_at

BLACK = np.zeros((240, 320, 3), np.uint8)


def drawn(*boxes, status=Status.ASSESSED):
    people = tuple(
        Estimate(Track(f"p{i:05d}", box, 0.9), status, label="happiness", confidence=0.5)
        for i, box in enumerate(boxes)
    )
    return draw_overlay(
        frame_at(0, BLACK), PeopleEstimate(0, "", 320, 240, "", "", ("happiness",), people)
    )


def test_input_image_is_not_changed():
    assert drawn(Box(20, 60, 90, 200)).any()
    assert not BLACK.any()


def test_labels_of_neighbours_do_not_cover_each_other():
    one_label = (drawn(Box(20, 100, 60, 200)).min(axis=2) > 128).sum()
    two_labels = (drawn(Box(20, 100, 60, 200), Box(70, 102, 110, 200)).min(axis=2) > 128).sum()
    assert two_labels > 1.8 * one_label


def test_box_beyond_the_image_and_no_people_are_drawn():
    assert drawn(Box(-50, -50, 500, 500)).shape == BLACK.shape
    assert not drawn().any()


def test_each_status_has_its_own_colour():
    colours = {tuple(drawn(Box(20, 60, 90, 200), status=s)[200, 50]) for s in Status}
    assert len(colours) == len(Status)
