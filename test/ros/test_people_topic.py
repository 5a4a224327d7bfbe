"""People whom another process detects are assessed under its ids."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from support.people_source import BOX
from support.robot import Robot

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import SourceStatus
from emotion_perception.ros.people_topic import PeopleTopic
from emotion_perception.testing.fakes import noise_image

pytestmark = [pytest.mark.ros, pytest.mark.serial]

SOURCE = Path(__file__).parents[1] / "support" / "people_source.py"


@pytest.fixture
def robot(ros_domain, tmp_path, interfaces):
    """A function that starts a node with boxes from a topic."""
    made = []

    def start(**parameters):
        values = {"detector.name": "topic", **parameters}
        image = noise_image(640, 480)
        made.append(Robot(tmp_path / "node.log", "none", 10, image, interfaces, **values))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def source(ros_domain, interfaces):
    """A function that starts a process which detects people."""
    made = []

    def start(kind):
        command = [sys.executable, str(SOURCE), kind]
        made.append(subprocess.Popen(command, env=os.environ | interfaces))

    yield start
    for each in made:
        each.kill()
        each.wait()


@pytest.mark.parametrize(
    ("kind", "parameters", "person_id", "confidence"),
    [
        ("ids", {}, "p00001_7", 0.75),
        ("no_ids", {"detector.ids": "tracker"}, "p00001", 0.75),
        ("bodies", {"detector.source": "bodies"}, "p00001_xkcdq", 1.0),
        ("unstamped", {"detector.source": "bodies"}, "p00001_xkcdq", 1.0),
    ],
)
def test_person_from_a_topic_is_assessed(robot, source, kind, parameters, person_id, confidence):
    source(kind)
    r = robot(**parameters)
    _, message = r.assessed()
    (person,) = message.people
    assert message.source_status is SourceStatus.LIVE
    assert person.track.person_id == person_id
    assert tuple(person.track.box) == pytest.approx(BOX, abs=1)
    assert person.track.confidence == pytest.approx(confidence)


def test_node_without_boxes_says_that_the_detector_failed_until_they_arrive(robot, source):
    r = robot(silence=1.0)
    _, failed = r.hear(lambda m: m.source_status is SourceStatus.DETECTOR_FAILED)
    assert failed.people == ()
    r.until(lambda: "no node publishes boxes on /detections" in r.errors)
    assert not [m for _, m in r.messages if m.source_status is SourceStatus.LIVE]
    source("ids")
    r.assessed()


def test_boxes_without_ids_are_an_error_that_names_the_setting(robot, source):
    source("no_ids")
    r = robot(silence=1.0)
    r.hear(lambda m: m.source_status is SourceStatus.DETECTOR_FAILED)
    r.until(lambda: "the boxes have no id; set detector.ids to tracker" in r.errors)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"detector.source": "bodies", "ros4hri.enabled": True},
            "cannot publish people on /humans/bodies and read them from there",
        ),
        ({"image_transport": "ffmpeg"}, "cannot use image_transport = ffmpeg with detector.name"),
    ],
)
def test_settings_that_cannot_work_together_are_an_error(parameters, message):
    settings = Settings.from_dict({"detector.name": "topic", **parameters})
    with pytest.raises(ValueError, match=message):
        PeopleTopic(None, settings, print, print)
