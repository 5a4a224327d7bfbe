"""Faces are unrecognisable in the images that come out of the package."""

import importlib.util

import cv2
import numpy as np
import pytest

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box
from emotion_perception.perception import privacy
from emotion_perception.testing.fakes import frame_at

DETAIL = np.stack([np.indices((240, 960)).sum(0) % 2 * 255] * 3, axis=2).astype(np.uint8)
"""A checkerboard of single pixels: whatever stays of it was not blurred."""


def crowd(count, seed=0):
    """People in a row with a face in the upper third of their boxes, some of them overlapping."""
    random = np.random.default_rng(seed)
    people, faces = [], []
    for number in range(count):
        left = number * 960 / count + random.uniform(-4, 4)
        top, width, height = random.uniform(5, 60), random.uniform(20, 45), random.uniform(110, 170)
        people.append(Box(left, top, left + width, top + height))
        side = min(width, height / 4) * 0.6
        x, y = left + width / 2, top + height / 6
        faces.append(Box(x - side / 2, y - side / 2, x + side / 2, y + side / 2))
    return people, faces


def unblurred(image, faces):
    """The number of faces with a pixel that differs from its neighbours as in the original."""
    sharp = np.abs(cv2.Laplacian(image[..., 0], cv2.CV_64F)) > 900
    return sum(bool(sharp[face.pixels(960, 240)][2:-2, 2:-2].any()) for face in faces)


@pytest.mark.parametrize("missed", [0, 7, 24])
def test_no_face_of_a_crowd_stays_unblurred_whether_it_is_found_or_not(missed):
    people, faces = crowd(24)
    before = DETAIL.copy()
    assert unblurred(DETAIL, faces) == 24
    assert unblurred(privacy.blur_faces(DETAIL, people, faces[missed:]), faces) == 0
    assert np.array_equal(DETAIL, before)


def test_face_that_belongs_to_no_person_is_blurred():
    face = Box(500, 50, 540, 90)
    shown = privacy.blur_faces(DETAIL, [Box(10, 10, 60, 200)], [face])
    assert unblurred(shown, [face]) == 0


def test_body_below_a_face_that_is_found_stays_sharp():
    person, face = Box(100, 0, 200, 240), Box(140, 5, 160, 25)
    shown = privacy.blur_faces(DETAIL, [person], [face])
    assert np.array_equal(shown[40:], DETAIL[40:])
    assert not np.array_equal(privacy.blur_faces(DETAIL, [person], [])[40:80], DETAIL[40:80])


@pytest.mark.parametrize("box", [Box(-50, -50, -10, -10), Box(0, 0, 0, 0), Box(5, 5, 5.5, 6)])
def test_boxes_outside_the_image_or_without_size_are_no_error(box):
    image = np.zeros((20, 30, 3), np.uint8)
    assert privacy.blur_faces(image, [box], [box]).shape == image.shape


def test_frames_pass_unchanged_unless_asked_for():
    frame = frame_at(1.0)
    blur = privacy.FaceBlur(Settings())
    assert blur.frame(frame, [Box(0, 0, 9, 9)]) is frame
    assert blur.face(frame) is frame


def test_without_a_face_detector_the_upper_third_is_blurred(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    blur = privacy.FaceBlur(Settings.from_dict({"privacy.blur_faces": True}))
    frame = frame_at(1.0)
    shown = blur.frame(frame, [Box(0, 0, frame.width, frame.height)])
    third = frame.height // 3 + 1
    assert (shown.stamp_ns, shown.camera) == (frame.stamp_ns, frame.camera)
    assert np.array_equal(shown.image[third:], frame.image[third:])
