"""Two nodes in one process and one executor, each with a namespace and a camera of its own."""

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from emotion_perception.core.values import Box, SourceStatus, Status
from emotion_perception.ros.conversions import image_to_msg, people_from_msg
from emotion_perception.ros.node import EmotionNode
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector, frame_at
from emotion_perception_msgs.msg import PersonEmotionArray

pytestmark = [pytest.mark.ros, pytest.mark.serial]

BOXES = {"front": [Box(10, 20, 60, 200)], "rear": [Box(200, 20, 250, 200), Box(90, 20, 150, 200)]}
SCORES = {"front": (0.9, 0.2), "rear": (0.1, 0.8)}


class Robot:
    """A robot with a camera at its front and one at its rear."""

    def __init__(self, domain):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes, self.cameras, self.findings = {}, {}, {}
        self.received = {name: [] for name in BOXES}
        self.planner = rclpy.create_node("planner", context=self.context)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        for name, boxes in BOXES.items():
            self.nodes[name] = EmotionNode(
                "emotions",
                namespace=name,
                make_detector=lambda _, boxes=boxes: ScriptedDetector(boxes),
                make_recognizer=lambda _, name=name: FakeRecognizer(lambda p: SCORES[name]),
                context=self.context,
                cli_args=["--ros-args", "-r", "image:=color/image"],
                parameter_overrides=[Parameter("scheduler.refresh", value=0.0)],
            )
            self.cameras[name] = self.planner.create_publisher(
                Image, f"/{name}/color/image", best_effort
            )
            self.planner.create_subscription(
                PersonEmotionArray,
                f"/{name}/emotions/emotions",
                lambda message, name=name: self.received[name].append(people_from_msg(message)),
                100,
            )
        self.planner.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        for node in (*self.nodes.values(), self.planner):
            self.executor.add_node(node)
        for name, node in self.nodes.items():
            assert node.trigger_configure().name == "SUCCESS"
            assert node.trigger_activate().name == "SUCCESS"
            self.until(lambda name=name: self.cameras[name].get_subscription_count() == 1)
            topic = f"/{name}/emotions/emotions"
            self.until(lambda node=node, topic=topic: node.count_subscribers(topic) == 1)

    def _diagnosed(self, message):
        for status in message.status:
            self.findings[status.name] = status.message

    def until(self, condition, seconds=20.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the condition did not hold in time"
            self.executor.spin_once(timeout_sec=0.02)

    def feed(self, seconds, names):
        """Publish a frame of each camera, all with the same stamp."""
        for name in names:
            self.cameras[name].publish(image_to_msg(frame_at(seconds, camera=f"{name}_optical")))
        stamp_ns = round(seconds * 1e9)
        for name in names:
            self.until(lambda name=name: self.newest(name, stamp_ns))

    def newest(self, name, stamp_ns):
        return self.received[name] and self.received[name][-1].stamp_ns == stamp_ns

    def close(self):
        for node in self.nodes.values():
            node.release()
        self.executor.shutdown(timeout_sec=5)
        for node in (*self.nodes.values(), self.planner):
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def robot(ros_domain):
    made = Robot(ros_domain)
    yield made
    made.close()


def test_cameras_that_are_fed_at_the_same_time_do_not_mix(robot):
    for step in range(60):
        robot.feed(1.0 + step / 30, BOXES)
    for name, boxes in BOXES.items():
        messages = robot.received[name]
        assert {message.camera for message in messages} == {f"{name}_optical"}
        seen = [person.track.box for message in messages for person in message.people]
        assert set(seen) == set(boxes)
        assessed = [p for m in messages for p in m.people if p.status is Status.ASSESSED]
        assert {person.label for person in assessed} == {
            "happiness" if name == "front" else "sadness"
        }
    runs = [{message.run_id for message in robot.received[name]} for name in BOXES]
    assert len(runs[0] | runs[1]) == 2
    robot.until(lambda: len([name for name in robot.findings if "camera" in name]) == 2)
    assert all(text.startswith("images arrive") for n, text in robot.findings.items()
               if "camera" in n)  # fmt: skip


def test_one_node_works_on_when_the_other_ends(robot):
    robot.feed(1.0, BOXES)
    robot.feed(1.1, BOXES)
    rear = robot.nodes.pop("rear")
    assert rear.trigger_deactivate().name == "SUCCESS"
    assert rear.trigger_shutdown().name == "SUCCESS"
    robot.executor.remove_node(rear)
    rear.destroy_node()
    for step in range(10):
        robot.feed(1.2 + step / 10, ["front"])
    newest = robot.received["front"][-1]
    assert newest.source_status is SourceStatus.LIVE
    assert len(newest.people) == 1
    assert robot.received["rear"][-1].source_status is SourceStatus.INACTIVE
