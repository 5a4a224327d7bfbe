"""Deliver the estimates of a running node to a behaviour planner as Python values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.qos import QoSProfile

from emotion_perception.core.values import PeopleEstimate
from emotion_perception.io import message_codec
from emotion_perception.ros.conversions import PersonEmotionArray, people_from_msg

TOPIC = message_codec.TOPIC.removeprefix("/")
"""The topic of a node in the namespace of the planner."""


def start_ros() -> None:
    """Initialise rclpy without signal handlers, which stay with the caller.

    Raises:
        ValueError: ROS cannot start; the message names the domain.
    """
    try:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:
        domain = os.environ.get("ROS_DOMAIN_ID", "")
        raise ValueError(
            f"cannot start ROS 2 with ROS_DOMAIN_ID={domain!r}: {error}; set it to 0 to 232"
        ) from error


@contextmanager
def valid_names() -> Iterator[None]:
    """Turn an invalid name of a topic or node into a `ValueError`.

    Raises:
        ValueError: A name is not valid in ROS.
    """
    try:
        yield
    except NameValidationException as error:
        raise ValueError(" ".join(str(error).split())) from error


class EmotionListener:
    """Call a function with the estimates of all people each time the node publishes."""

    def __init__(
        self,
        node: Node,
        callback: Callable[[PeopleEstimate], None],
        topic: str = TOPIC,
        depth: int = 10,
    ) -> None:
        """Subscribe to the topic.

        Args:
            node: The planner's own node, whose executor runs the callback.
            callback: Called with the estimates of each message.
            topic: The topic of the node, relative to the namespace of the planner's node.
            depth: Messages that may wait for the callback; the oldest are dropped first.

        Raises:
            ValueError: The topic is not a valid name.
        """
        self._node = node
        with valid_names():
            self._subscription = node.create_subscription(
                PersonEmotionArray,
                topic,
                lambda message: callback(people_from_msg(message)),
                QoSProfile(depth=depth),
            )
        self.topic: str = self._subscription.topic_name

    @property
    def publishers(self) -> int:
        """Number of publishers on the topic."""
        return int(self._node.count_publishers(self.topic))

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)
