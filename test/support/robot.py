"""A node in a process of its own, a camera, and a planner that listens."""

import os
import subprocess
import sys
import time
from pathlib import Path

import rclpy
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from emotion_perception.core.values import Status
from emotion_perception.ros.conversions import image_to_msg, people_from_msg
from emotion_perception.testing.fakes import frame_at
from emotion_perception_msgs.msg import PersonEmotionArray

SCRIPT = Path(__file__).with_name("hostile_node.py")
FAST = {"scheduler.refresh": 0.0, "heartbeat": 0.3}


class Robot:
    """A node in a process of its own, a camera, and a planner that listens.

    Args:
        log: The file that receives what the node writes.
        fault: See `hostile_node.py`.
        rate: Images per second.
        image: The image; None: a small one.
        environment: Variables of the process of the node besides those of this one.
        parameters: Of the node.
    """

    def __init__(self, log, fault="none", rate=20, image=None, environment=None, **parameters):
        options = [f"{name}:={value}" for name, value in {**FAST, **parameters}.items()]
        arguments = [word for option in options for word in ("-p", option)]
        command = [sys.executable, str(SCRIPT), fault, "--ros-args", *arguments]
        self._log = log
        with log.open("wb") as file:
            variables = os.environ | (environment or {})
            self.process = subprocess.Popen(command, stderr=file, env=variables)
        self.messages, self.alive = [], []
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.camera = self.node.create_publisher(Image, "image", best_effort)
        lease = Duration(seconds=2 * FAST["heartbeat"])
        self.node.create_subscription(
            PersonEmotionArray,
            "emotion_node/emotions",
            lambda message: self.messages.append((time.time(), people_from_msg(message))),
            QoSProfile(
                depth=100, deadline=lease, liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
                liveliness_lease_duration=lease,
            ),
            event_callbacks=SubscriptionEventCallbacks(
                liveliness=lambda event: self.alive.append((time.time(), event.alive_count))
            ),
        )  # fmt: skip
        self.filming, self._shot = True, 0.0
        self._period, self._image = 1 / rate, image

    @property
    def errors(self):
        """What the node wrote so far."""
        return self._log.read_text()

    def spin(self):
        if self.filming and time.time() - self._shot > self._period:
            self._shot = max(self._shot + self._period, time.time() - self._period)
            self.camera.publish(image_to_msg(frame_at(time.time(), self._image)))
        self.executor.spin_once(timeout_sec=0.01)

    def until(self, condition, seconds=30.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s; the node says: {self.errors}"
            self.spin()

    def hear(self, condition, seconds=30.0):
        """Spin until a new message fulfils the condition, and return it with its time."""
        heard = len(self.messages)

        def found():
            return [entry for entry in self.messages[heard:] if condition(entry[1])]

        self.until(found, seconds)
        return found()[0]

    def assessed(self):
        return self.hear(lambda m: m.people and m.people[0].status is Status.ASSESSED)

    def ends(self, seconds):
        self.until(lambda: self.process.poll() is not None, seconds)
        return self.process.returncode

    def close(self):
        self.process.kill()
        self.process.wait()
        self.executor.shutdown(timeout_sec=5)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)
