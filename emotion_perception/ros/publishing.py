"""Publish estimates: messages, markers, and frames with the boxes drawn in."""

from __future__ import annotations

import dataclasses
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from emotion_perception.core.values import Frame, PeopleEstimate
from emotion_perception.io.overlay import draw_overlay
from emotion_perception.ros.conversions import PersonEmotionArray, image_to_msg, people_to_msg
from emotion_perception.ros.markers import MarkerPublisher


class EstimatePublisher:
    """Publishes `~/emotions`, `~/debug_image` and `~/markers` between `open` and `close`."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._emotions: Any = None
        self._debug_image: Any = None
        self._markers: MarkerPublisher | None = None
        self.published = 0
        """Number of messages on `~/emotions` since the node started."""

    def open(self) -> None:
        """Create the publishers."""
        self._emotions = self._node.create_lifecycle_publisher(
            PersonEmotionArray, "~/emotions", QoSProfile(depth=10)
        )
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._debug_image = self._node.create_lifecycle_publisher(
            Image, "~/debug_image", best_effort
        )
        self._markers = MarkerPublisher(self._node)

    def publish(self, people: PeopleEstimate, frame: Frame) -> None:
        """Publish the estimates for a frame; draw only what has subscribers."""
        self._publish_emotions(people)
        assert self._markers is not None
        self._markers.publish(people)
        if self._debug_image.get_subscription_count():
            overlay = Frame(draw_overlay(frame, people), frame.stamp_ns, frame.camera)
            self._debug_image.publish(image_to_msg(overlay))

    def publish_empty(self, people: PeopleEstimate) -> None:
        """Publish an empty list, so that subscribers do not keep the last estimates."""
        self._publish_emotions(dataclasses.replace(people, people=()))

    def close(self) -> None:
        """Destroy the publishers that exist."""
        for publisher in (self._emotions, self._debug_image):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)
        if self._markers is not None:
            self._markers.close()
        self._emotions = self._debug_image = self._markers = None

    def _publish_emotions(self, people: PeopleEstimate) -> None:
        self._emotions.publish(people_to_msg(people))
        self.published += 1
