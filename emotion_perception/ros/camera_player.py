"""Publish frames as a camera driver does."""

from __future__ import annotations

import os
from pathlib import Path

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from emotion_perception.core.values import Frame
from emotion_perception.ros.conversions import compressed_to_msg, image_to_msg, time_to_msg

PROFILE = "fastdds_large_images.xml"
_PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def use_large_image_profile() -> None:
    """Let Fast DDS send whole images through shared memory; call it before `rclpy.init`.

    With its default settings Fast DDS loses most best-effort images of 640 x 480 and larger without
    a message. A profile that the user has set stays.
    """
    if not any(os.environ.get(variable) for variable in _PROFILE_VARIABLES):
        for variable in _PROFILE_VARIABLES:
            os.environ[variable] = str(config_folder() / PROFILE)


def config_folder() -> Path:
    """Return the folder of the parameter files, in the clone or the installed one."""
    clone = Path(__file__).resolve().parents[2] / "config"
    if clone.is_dir():
        return clone
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("emotion_perception")) / "config"


class CameraPlayer:
    """Publishes frames on a topic: best effort, only the newest."""

    def __init__(self, node: Node, topic: str, transport: str = "raw") -> None:
        """Create the publisher.

        Args:
            node: the node that publishes.
            topic: the topic of the images.
            transport: raw, or compressed, which publishes JPEG on `<topic>/compressed`.
        """
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._compressed = transport == "compressed"
        if self._compressed:
            topic += "/compressed"
        kind = CompressedImage if self._compressed else Image
        self._publisher = node.create_publisher(kind, topic, best_effort)

    @property
    def listeners(self) -> int:
        """Number of subscribers of the images."""
        return self._publisher.get_subscription_count()

    def publish(self, frame: Frame) -> None:
        """Publish a frame."""
        self._publisher.publish(self.to_msg(frame))

    def to_msg(self, frame: Frame) -> Image | CompressedImage:
        """Convert a frame to the message of the topic."""
        return compressed_to_msg(frame) if self._compressed else image_to_msg(frame)

    def send(self, message: Image | CompressedImage, stamp_ns: int) -> None:
        """Publish a message with another stamp."""
        message.header.stamp = time_to_msg(stamp_ns)
        self._publisher.publish(message)
