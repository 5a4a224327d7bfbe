"""People under /humans and as detections, over the wire to another process."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from support.robot import Robot

from emotion_perception.core.settings import Ros4HriSettings, Settings
from emotion_perception.core.values import (
    Box,
    Cause,
    Estimate,
    PeopleEstimate,
    SourceStatus,
    Status,
    Track,
)
from emotion_perception.perception.privacy import FaceBlur
from emotion_perception.ros import ros4hri
from emotion_perception.testing.fakes import frame_at, noise_image

pytestmark = [pytest.mark.ros, pytest.mark.serial]

LISTENER = Path(ros4hri.__file__).parents[2] / "test" / "support" / "interface_listener.py"
BOTH = {"ros4hri.enabled": "true", "vision_msgs": "true", "ros4hri.grace": 0.5}
WIDTH, HEIGHT = 640, 480


class Listener:
    """A process that hears what the node publishes, and its events so far."""

    def __init__(self, log, environment, *arguments):
        self._log = log
        with log.open("wb") as file:
            command = [sys.executable, str(LISTENER), *arguments]
            variables = os.environ | environment
            self.process = subprocess.Popen(command, stdout=file, env=variables)

    def events(self, event, topic=r".*"):
        """Return the topics, or the messages, of events on topics that match."""
        lines = self._log.read_text().splitlines(keepends=True)
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [
            e.get("message", e["topic"]) if event != "topic" else e
            for e in events
            if e["event"] == event and re.fullmatch(topic, e["topic"])
        ]

    def close(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def pair(ros_domain, tmp_path, interfaces):
    """A function that starts a node and a listener, and returns both."""
    made = []

    def start(fault, *arguments, **parameters):
        listener = Listener(tmp_path / "heard.jsonl", interfaces, *arguments)
        made.append(listener)
        image = noise_image(WIDTH, HEIGHT)
        robot = Robot(tmp_path / "node.log", fault, 10, image, interfaces, **BOTH, **parameters)
        made.append(robot)
        return robot, listener

    yield start
    for each in made:
        each.close()


def stamp_ns(message):
    stamp = message["header"]["stamp"]
    return stamp["sec"] * 10**9 + stamp["nanosec"]


def test_person_with_a_face_is_published_as_body_face_and_detection(pair):
    robot, heard = pair("faces")
    wanted = [
        "/humans/bodies/tracked", "/humans/bodies/b00001/roi", "/humans/bodies/b00001/cropped",
        "/humans/bodies/b00001/expression", "/humans/faces/tracked", "/humans/faces/f00001/roi",
        "/humans/faces/f00001/cropped", "/humans/faces/f00001/expression",
        "/humans/candidate_matches", "/emotion_node/detections", "/emotion_node/detection_labels",
    ]  # fmt: skip
    robot.until(lambda: all(heard.events("message", topic) for topic in wanted))
    robot.until(
        lambda: heard.events("message", "/emotion_node/detections")[-1]["detections"][0]["results"]
    )

    kinds = {e["topic"]: (e["type"].split("/")[-1], *e["policies"]) for e in heard.events("topic")}
    newest = ("RELIABLE", "VOLATILE")
    assert set(kinds) == set(wanted)
    for group in ("bodies", "faces"):
        assert kinds[f"/humans/{group}/tracked"] == ("IdsList", *newest)
        person = f"/humans/{group}/{group[0]}00001"
        assert kinds[f"{person}/roi"] == ("NormalizedRegionOfInterest2D", *newest)
        assert kinds[f"{person}/cropped"] == ("Image", *newest)
        assert kinds[f"{person}/expression"] == ("Expression", *newest)
    assert kinds["/humans/candidate_matches"] == ("IdsMatch", *newest)
    assert kinds["/emotion_node/detections"] == ("Detection2DArray", *newest)
    assert kinds["/emotion_node/detection_labels"] == ("LabelInfo", "RELIABLE", "TRANSIENT_LOCAL")

    images = {message.stamp_ns for _, message in robot.messages}
    for topic in wanted[:8]:
        message = heard.events("message", topic)[-1]
        assert stamp_ns(message) in images, topic
        assert message["header"]["frame_id"] == "camera"
    assert {"ids": ["b00001"]}.items() <= heard.events("message", wanted[0])[-1].items()
    assert {"ids": ["f00001"]}.items() <= heard.events("message", wanted[4])[-1].items()
    for topic, corners in ((wanted[1], (10, 20, 60, 200)), (wanted[5], (20, 30, 40, 60))):
        region = heard.events("message", topic)[-1]
        shares = np.array([region[side] for side in ("xmin", "ymin", "xmax", "ymax")])
        assert shares * [WIDTH, HEIGHT, WIDTH, HEIGHT] == pytest.approx(corners, abs=1e-3)
        assert region["c"] == pytest.approx(0.9)
    crop = heard.events("message", wanted[2])[-1]
    assert (crop["width"], crop["height"], crop["encoding"]) == (50, 180, "rgb8")
    for topic in (wanted[3], wanted[7]):
        felt = heard.events("message", topic)[-1]
        assert (felt["expression"], felt["valence"], felt["arousal"]) == ("happy", 0.5, -0.25)
        assert felt["confidence"] == pytest.approx(0.9)
    match = heard.events("message", wanted[8])[-1]
    assert match == {"id1": "f00001", "id1_type": 2, "id2": "b00001", "id2_type": 3,
                     "confidence": 1.0}  # fmt: skip

    array = heard.events("message", wanted[9])[-1]
    (person,) = array["detections"]
    assert person["header"] == array["header"]
    assert stamp_ns(array) in images
    assert person["id"] == "p00001"
    assert person["bbox"]["center"]["position"] == {"x": 35.0, "y": 110.0}
    assert (person["bbox"]["size_x"], person["bbox"]["size_y"]) == (50.0, 180.0)
    ((label, score),) = [(r["hypothesis"]["class_id"], r["hypothesis"]["score"])
                         for r in person["results"]]  # fmt: skip
    assert (label, score) == ("happiness", pytest.approx(0.9))
    (labels,) = heard.events("message", wanted[10])
    assert [c["class_name"] for c in labels["class_map"]] == ["happiness", "sadness"]
    assert labels["threshold"] == 0.5

    robot.process.send_signal(signal.SIGTERM)
    robot.until(lambda: set(heard.events("gone")) == set(wanted))
    assert heard.events("message", wanted[0])[-1]["ids"] == []
    assert heard.events("message", wanted[4])[-1]["ids"] == []
    assert heard.events("message", wanted[9])[-1]["detections"] == []


def test_topics_of_a_person_end_after_the_person_left(pair):
    robot, heard = pair("crowd")
    visitor = "/humans/bodies/b0000[2-9]/roi"
    robot.until(lambda: heard.events("gone", visitor), 60)
    gone = heard.events("gone", visitor)[0]
    body = gone.split("/")[-2]
    listed = [body in message["ids"] for message in heard.events("message", ".*bodies/tracked")]
    assert True in listed
    assert listed[-1] is False
    regions = heard.events("message", gone)
    assert regions
    assert "/humans/bodies/b00001/roi" not in heard.events("gone")
    assert not heard.events("topic", "/humans/faces/f.*")  # no face is derived from a body


def test_second_publisher_of_a_list_is_reported(pair):
    robot, _ = pair("none", "/humans/bodies/tracked")
    robot.until(
        lambda: "/interface_listener publishes on /humans/bodies/tracked, too" in robot.errors
    )


@pytest.mark.parametrize(
    ("setting", "package"), [("ros4hri.enabled", "hri_msgs"), ("vision_msgs", "vision_msgs")]
)
def test_missing_messages_end_the_start_with_the_package_to_install(
    ros_domain, tmp_path, monkeypatch, setting, package
):
    empty = tmp_path / package / "__init__.py"
    empty.parent.mkdir()
    empty.touch()
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.syspath_prepend(tmp_path)
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    robot = Robot(tmp_path / "node.log", environment=environment, **{setting: "true"})
    try:
        assert robot.ends(60) == 2
        assert f"cannot use {setting} = true" in robot.errors
        assert f"sudo apt install ros-jazzy-{package.replace('_', '-')}" in robot.errors
    finally:
        robot.close()


class Publisher:
    """Stands in for a publisher, with a number of subscribers that a test sets."""

    def __init__(self, node, topic):
        self._node, self.topic_name, self.subscribers, self.sent = node, topic, 0, []

    def get_subscription_count(self):
        return self.subscribers

    def publish(self, message):
        self.sent.append(message)


class Node:
    """Stands in for a node that publishes."""

    def __init__(self, name="/emotion_node"):
        self._name, self.publishers = name, {}

    def get_fully_qualified_name(self):
        return self._name

    def create_publisher(self, kind, topic, qos, **options):
        assert topic not in self.publishers
        self.publishers[topic] = Publisher(self, topic)
        return self.publishers[topic]

    def destroy_publisher(self, publisher):
        del self.publishers[publisher.topic_name]


@pytest.fixture
def output(monkeypatch):
    """A function that returns a node that records, and an output that publishes through it."""
    names = ("IdsList", "IdsMatch", "NormalizedRegionOfInterest2D", "Expression")
    types = {name: type(name, (SimpleNamespace,), {"FACE": 2, "BODY": 3}) for name in names}
    monkeypatch.setattr(ros4hri, "optional_messages", lambda package, why: SimpleNamespace(**types))

    def make(name="/emotion_node", **settings):
        node = Node(name)
        return node, ros4hri.Ros4Hri(
            node, Ros4HriSettings(enabled=True, **settings), FaceBlur(Settings())
        )

    return make


FRAME = frame_at(5.0)


def people(*estimates, cause=Cause.FRAME, source_status=SourceStatus.LIVE):
    return PeopleEstimate(
        FRAME.stamp_ns, "camera", FRAME.width, FRAME.height, "", "", ("peace", "sympathy"),
        estimates, source_status, cause,
    )  # fmt: skip


def estimate(person_id="p00001", status=Status.ASSESSED, active=("peace",), assessed_ns=7):
    track = Track(person_id, Box(-10, 20, 60, 999), 0.9)
    scores = np.array([0.75, 0.5])
    return Estimate(track, status, "", assessed_ns, active=active, scores=scores)


def test_crop_is_published_only_with_subscribers(output):
    node, hri = output()
    hri.publish(people(estimate()), FRAME)
    crops = node.publishers["/humans/bodies/b00001/cropped"]
    assert not crops.sent
    crops.subscribers = 1
    hri.publish(people(estimate()), FRAME)
    hri.publish(people(estimate(), cause=Cause.HEARTBEAT), FRAME)
    (crop,) = crops.sent
    assert (crop.width, crop.height) == (60, FRAME.height - 20)


def test_region_of_a_box_beyond_the_image_stays_within_it(output):
    node, hri = output()
    hri.publish(people(estimate()), FRAME)
    (region,) = node.publishers["/humans/bodies/b00001/roi"].sent
    assert (region.xmin, region.ymax) == (0.0, 1.0)


def test_expression_is_published_once_per_assessment_and_never_without_a_word(output):
    node, hri = output()
    for status, active, assessed_ns in [
        (Status.ABSTAINED, (), 3),
        (Status.ASSESSED, ("sympathy",), 4),
        (Status.ASSESSED, ("sympathy", "peace"), 5),
        (Status.ASSESSED, ("peace",), 5),
        (Status.EXPIRED, (), 5),
        (Status.ASSESSED, ("peace",), 6),
    ]:
        hri.publish(people(estimate("p00001", status, active, assessed_ns)), FRAME)
    felt = node.publishers["/humans/bodies/b00001/expression"].sent
    assert [m.header.stamp.nanosec for m in felt] == [5, 6]
    assert {(m.expression, m.confidence) for m in felt} == {("neutral", 0.75)}
    assert all(np.isnan([m.valence, m.arousal]).all() for m in felt)


def test_people_of_a_silent_camera_are_not_in_the_list(output):
    node, hri = output()
    hri.publish(people(estimate()), FRAME)
    silent = people(estimate(), cause=Cause.EXPIRY, source_status=SourceStatus.CAMERA_SILENT)
    hri.publish(silent, FRAME)
    assert [m.ids for m in node.publishers["/humans/bodies/tracked"].sent] == [["b00001"], []]


def test_topics_of_a_person_outlive_a_gap_but_not_the_grace(output, monkeypatch):
    node, hri = output(grace=2.0)
    now = 100.0
    monkeypatch.setattr(ros4hri.time, "monotonic", lambda: now)
    alone = len(node.publishers)
    hri.publish(people(estimate()), FRAME)
    first = node.publishers["/humans/bodies/b00001/roi"]
    now = 101.9
    hri.publish(people(), FRAME)
    hri.publish(people(estimate()), FRAME)
    assert node.publishers["/humans/bodies/b00001/roi"] is first
    now = 104.0
    hri.publish(people(), FRAME)
    assert len(node.publishers) == alone


def test_inactive_node_has_an_empty_list_and_no_topics_of_people(output):
    node, hri = output()
    alone = set(node.publishers)
    hri.publish(people(estimate(), estimate("p00002")), FRAME)
    hri.publish_inactive(people(source_status=SourceStatus.INACTIVE))
    assert set(node.publishers) == alone
    assert node.publishers["/humans/bodies/tracked"].sent[-1].ids == []
    hri.close()
    assert not node.publishers


@pytest.mark.parametrize(
    ("name", "prefix", "body"),
    [
        ("/emotion_node", "", "b00001"),
        ("/left/emotion_node", "", "left_b00001"),
        ("/robot1/left_eye", "", "robot1_left_eye_b00001"),
        ("/left/emotion_node", "cam2", "cam2b00001"),
    ],
)
def test_ids_of_each_node_have_a_beginning_of_their_own(output, name, prefix, body):
    node, hri = output(name, id_prefix=prefix, root="/people")
    hri.publish(people(estimate()), FRAME)
    assert f"/people/bodies/{body}/roi" in node.publishers


def test_prefix_that_no_topic_name_can_hold_is_an_error(output):
    with pytest.raises(ValueError, match="cannot use ros4hri.id_prefix = '2nd'"):
        output(id_prefix="2nd")
