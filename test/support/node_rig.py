"""A node, a camera and a listener in one ROS domain."""

import time

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from emotion_perception.core.values import Box
from emotion_perception.ros.conversions import image_to_msg, people_from_msg
from emotion_perception.ros.node import EmotionNode
from emotion_perception.testing.fakes import (
    FakeRecognizer,
    ScriptedDetector,
    frame_at,
)
from emotion_perception_msgs.msg import PersonEmotionArray

ALICE = Box(10, 20, 60, 200)


FAST = {"scheduler.refresh": 0.0}


class Rig:
    """The node, a camera and a listener on a domain of their own."""

    def __init__(self, domain, detector=None, recognizer=None, **options):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.detector = detector or ScriptedDetector([ALICE])
        self.recognizer = recognizer or FakeRecognizer()
        values = {**FAST, **options.pop("parameters", {})}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        namespace = options.pop("namespace", None)
        self.node = EmotionNode(
            make_detector=options.pop("make_detector", lambda settings: self.detector),
            make_recognizer=options.pop("make_recognizer", lambda settings: self.recognizer),
            context=self.context,
            namespace=namespace,
            parameter_overrides=overrides,
        )
        self.other = rclpy.create_node("test_rig", context=self.context, namespace=namespace)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.camera = self.other.create_publisher(Image, "image", best_effort)
        self.received, self.findings = [], {}
        self.other.create_subscription(
            PersonEmotionArray, "emotion_node/emotions", self._on_message, QoSProfile(depth=100)
        )
        self.other.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.other)

    def _on_message(self, message):
        self.received.append(people_from_msg(message))

    def _diagnosed(self, message):
        for status in message.status:
            self.findings[status.name.rpartition(" ")[2]] = (
                int.from_bytes(status.level, "little"),
                status.message,
            )

    def until(self, condition, seconds=20.0):
        """Spin until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def start(self, subscribed=True):
        assert self.node.trigger_configure().name == "SUCCESS"
        assert self.node.trigger_activate().name == "SUCCESS"
        self.until(lambda: not subscribed or self.camera.get_subscription_count() == 1)
        self.until(lambda: self.node.count_subscribers("emotion_node/emotions") == 1)
        return self

    def show(self, seconds, image=None):
        """Publish a frame and wait until the node publishes its estimates."""
        frame = frame_at(seconds, image)
        self.camera.publish(image_to_msg(frame))
        self.until(lambda: self.received and self.received[-1].stamp_ns == frame.stamp_ns)
        return self.received[-1]

    def call(self, kind, name, request):
        client = self.other.create_client(kind, f"emotion_node/{name}")
        self.until(client.service_is_ready)
        answer = client.call_async(request)
        self.until(answer.done)
        self.other.destroy_client(client)
        return answer.result()

    def state(self):
        return self.call(GetState, "get_state", GetState.Request()).current_state.id

    def change(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "change_state", request).success

    def set(self, name, value):
        parameters = [Parameter(name, value=value).to_parameter_msg()]
        request = SetParameters.Request(parameters=parameters)
        return self.call(SetParameters, "set_parameters", request).results[0]

    def close(self):
        self.node.on_shutdown(None)
        self.executor.shutdown(timeout_sec=5)
        self.node.destroy_node()
        self.other.destroy_node()
        rclpy.try_shutdown(context=self.context)
