import numpy as np
import pytest

from emotion_perception.core.values import Assessment, Box, Detections


def test_box_is_clipped_to_the_image_and_covers_the_pixels_it_overlaps():
    box = Box(-5.5, 2.2, 3.1, 20)
    assert box.clipped(10, 8) == (0, 2.2, 3.1, 8)
    assert box.pixels(10, 8) == (slice(2, 8), slice(0, 4))


@pytest.mark.parametrize(
    "box", [Box(-9, 0, -1, 5), Box(3, 3, 3, 9), Box(5, 5, 2, 2), Box(float("nan"), 0, 1, 1)]
)
def test_box_outside_the_image_raises_an_error(box):
    with pytest.raises(ValueError, match="outside the image of 10 x 8 pixels"):
        box.pixels(10, 8)


def test_detections_can_be_empty():
    assert len(Detections.from_lists([], [])) == 0
    assert Detections.from_lists([], []).corners.shape == (0, 4)


def test_different_numbers_of_boxes_and_confidences_raise_an_error():
    with pytest.raises(ValueError, match="cannot combine boxes"):
        Detections(np.zeros((2, 4)), np.zeros(3))
    with pytest.raises(ValueError, match="cannot combine boxes .* with faces"):
        Detections(np.zeros((2, 4)), np.zeros(2), faces=np.zeros((1, 4)))


def test_assessment_without_scores_and_reason_raises_an_error():
    with pytest.raises(ValueError, match="neither scores nor a reason"):
        Assessment("p00001", 0, None)
