"""Positions of people in drawn depth images."""

import math

import numpy as np
import pytest

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Lens
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.perception.position import DepthImage, position_of
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector, frame_at, noise_image

WIDTH, HEIGHT = 640, 480
LENS = Lens(fx=500.0, fy=500.0, cx=319.5, cy=239.5)
PERSON = Box(200, 100, 300, 400)
TORSO = (slice(160, 250), slice(230, 270))
"""Rows and columns of the image in which the depth counts."""


def drawn(person=2.0, background=5.0):
    """Return a depth image in metres: a person, 60 pixels wide, before a wall."""
    pixels = np.full((HEIGHT, WIDTH), background, np.float32)
    pixels[100:400, 220:280] = person
    return pixels


def where(pixels, metres=1.0, box=PERSON, lens=LENS):
    return position_of(box, WIDTH, HEIGHT, DepthImage(pixels, metres, lens))


def test_position_is_right_down_and_forward_of_the_camera():
    x, y, z = where(drawn(person=2.0))
    assert z == pytest.approx(2.0)
    # The middle of the torso is 70 px left of the principal point and 35 px above it.
    assert x == pytest.approx((249.5 - 319.5) / 500 * 2.0, abs=0.01)
    assert y == pytest.approx((204.5 - 239.5) / 500 * 2.0, abs=0.01)


def test_millimetres_give_the_same_position_as_metres():
    millimetres = (drawn() * 1000).astype(np.uint16)
    assert where(millimetres, 0.001) == pytest.approx(where(drawn()), abs=1e-3)


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf, -1.0])
def test_holes_do_not_count(hole):
    pixels = drawn()
    random = np.random.default_rng(0)
    pixels[random.random(pixels.shape) < 0.8] = hole
    assert where(pixels)[2] == pytest.approx(2.0)


def test_background_between_arm_and_body_does_not_count():
    pixels = drawn(person=2.0, background=5.0)
    pixels[TORSO][:, :24] = 5.0  # three fifths of the torso
    x, _, z = where(pixels)
    assert z == pytest.approx(2.0)
    assert x == pytest.approx((261.5 - 319.5) / 500 * 2.0, abs=0.01)


def test_hand_before_the_body_does_not_count():
    pixels = drawn(person=2.0)
    pixels[TORSO][:20, :30] = 1.2  # a sixth of the torso
    assert where(pixels)[2] == pytest.approx(2.0)


def test_noise_moves_the_position_by_less_than_its_deviation():
    noise = np.random.default_rng(0).normal(0, 0.03, (HEIGHT, WIDTH)).astype(np.float32)
    assert where(drawn() + noise)[2] == pytest.approx(2.0, abs=0.02)


def test_torso_with_too_few_values_has_no_position():
    pixels = np.zeros((HEIGHT, WIDTH), np.float32)
    pixels[TORSO][:3, :40] = 2.0  # one in thirty
    assert all(map(math.isnan, where(pixels)))


@pytest.mark.parametrize("value", [0.05, 60.0])
def test_values_outside_the_range_of_depth_cameras_do_not_count(value):
    assert all(map(math.isnan, where(np.full((HEIGHT, WIDTH), value, np.float32))))


def test_torso_outside_the_image_has_no_position():
    assert all(map(math.isnan, where(drawn(), box=Box(600, -500, 700, 10))))


def test_absurd_calibration_gives_no_position():
    assert all(map(math.isnan, where(drawn(), lens=LENS._replace(fx=5e-324))))


def test_depth_image_of_half_the_size_gives_the_same_position():
    half = drawn()[::2, ::2]
    assert where(half, lens=LENS.scaled(0.5, 0.5)) == pytest.approx(where(drawn()), abs=0.01)


def test_pipeline_gives_people_positions_only_with_a_depth_image():
    pipeline = Pipeline(ScriptedDetector([PERSON]), FakeRecognizer(), Settings())
    image = noise_image(WIDTH, HEIGHT)
    depth = DepthImage(drawn(person=2.0), 1.0, LENS)
    pipeline.on_frame(frame_at(1.0, image), depth)
    (person,) = pipeline.on_frame(frame_at(1.1, image), depth).people
    assert person.track.position[2] == pytest.approx(2.0)
    (person,) = pipeline.on_frame(frame_at(1.2, image)).people
    assert all(map(math.isnan, person.track.position))
