"""Diagnostics report the problems of hand-made histories."""

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from emotion_perception.ros.health import ERROR, OK, WARN, CameraHealth, RecognizerHealth

pytestmark = pytest.mark.ros


def camera(**state):
    return CameraHealth("/cam", silence=3.0, since=100.0, **state)


@pytest.mark.parametrize(
    ("state", "publishers", "now", "text"),
    [
        ({}, 0, 104.0, "no image for 4 s on /cam: no node publishes there"),
        ({}, 2, 104.0, "publishers there: 2, but nothing arrives"),
        ({"incompatible_qos": "reliability"}, 1, 104.0, "with incompatible QoS (reliability)"),
        ({"received": 9, "unread": 2, "unreadable": "step 1"}, 1, 101.0, "2 of 9 images could not"),
        (
            {"received": 9, "undetected": 3, "unreadable": "no memory"},
            1,
            101.0,
            "the detector failed on 3 of 9 images: no memory",
        ),
        ({"received": 9, "same_stamp": 5}, 1, 101.0, "5 images in a row carry the same time stamp"),
        ({"received": 9, "late": 3}, 1, 101.0, "3 images were skipped because they are late"),
        ({"received": 9, "clock_jumps": 2}, 1, 101.0, "to an earlier time: 2; each drops all"),
        ({"received": 9, "lost": 30}, 1, 101.0, "30 images were lost on the way"),
        ({"received": 9, "missing": 10}, 1, 101.0, "10 of 19 images were not looked at"),
        ({"other_topic": "/cam/compressed"}, 0, 104.0, "set image_transport to compressed"),
        ({"publisher_names": "a, b"}, 2, 101.0, "2 nodes publish on /cam (a, b)"),
        (
            {"frame_ids": {"left": 100.0, "right": 100.9}},
            1,
            101.0,
            "carry the frame_ids left, right",
        ),
    ],
)
def test_problem_of_the_camera_is_reported_with_its_remedy(state, publishers, now, text):
    finding = camera(**state, publishers=publishers).report(now)
    assert finding.level == (ERROR if "detector" in text else WARN)
    assert text in finding.message


def test_images_that_the_node_had_no_time_for_are_counted_in_the_message():
    health = camera(received=277, missing=83, publishers=1)
    assert (health.report(101.0).level, health.report(101.0).message) == (
        OK,
        "images arrive; 277 of 360 looked at",
    )


def test_frame_id_of_an_earlier_camera_is_not_reported():
    health = camera(frame_ids={"old": 80.0, "new": 100.9}, publishers=1)
    assert health.report(101.0).level == OK


def test_problem_is_reported_for_ten_seconds_after_it_last_occurred():
    health = camera(received=9, unread=2)
    health.since = 999.0
    found = [health.report(now).level for now in np.arange(101.0, 120.0)]
    assert found == [WARN] * 10 + [OK] * 9


def test_disabled_camera_is_ok():
    assert camera(enabled=False).report(999.0).message == "disabled: not subscribed"


def test_recognizer_is_slow_until_it_answers_and_failing_until_it_does():
    health = RecognizerHealth("vlm", silence=3.0)
    assert health.report(0.0).message == "waiting"
    health.busy_since = 10.0
    assert health.report(12.0).level == OK
    assert health.report(17.0).message == "the model is slow: no answer for 7 s"
    health.timeout = 30.0
    assert health.report(41.0).level == ERROR
    assert "the model does not answer: 31 s in one round" in health.report(41.0).message
    health.failed("KeyError: 'a'")
    health.failed("KeyError: 'a'")
    assert health.report(17.0).level == ERROR
    assert health.report(17.0).message == "failures in a row: 2; KeyError: 'a'"
    health.answered()
    assert (health.report(17.0).level, health.report(17.0).message) == (OK, "answering")
