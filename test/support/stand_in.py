"""A planner's node, and publishers that stand in for the emotion node."""

import time

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile

from emotion_perception.core.values import Box, Estimate, PeopleEstimate, Status, Track
from emotion_perception.ros.conversions import PersonEmotionArray, people_to_msg

LABELS = ("fear", "happiness", "sadness")


class Stage:
    """A planner's node, and publishers that stand in for the emotion node."""

    def __init__(self, **options):
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("planner", context=self.context, **options)
        self.other = rclpy.create_node("stand_in", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.other)

    def publisher(self, topic="/emotion_node/emotions", **qos):
        return self.other.create_publisher(PersonEmotionArray, topic, QoSProfile(depth=10, **qos))

    def until(self, condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
            self.executor.spin_once(timeout_sec=0.02)

    def spin(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def send(self, publisher, seconds, *people, sequence=1):
        self.until(lambda: publisher.get_subscription_count() > 0)
        message = PeopleEstimate(
            round(seconds * 1e9), "camera", 10, 10, "model", "", LABELS, people,
            run_id="run", sequence=sequence, thresholds=np.full(3, 0.5),
        )  # fmt: skip
        publisher.publish(people_to_msg(message))

    def close(self):
        self.executor.shutdown(timeout_sec=5)
        self.node.destroy_node()
        self.other.destroy_node()
        rclpy.try_shutdown(context=self.context)


def sad(seconds, name="p00001"):
    return Estimate(
        Track(name, Box(0, 0, 9, 9), 0.9), Status.ASSESSED, assessed_ns=round(seconds * 1e9),
        label="sadness", confidence=0.9, active=("sadness",), scores=np.array([0.1, 0.1, 0.9]),
    )  # fmt: skip
