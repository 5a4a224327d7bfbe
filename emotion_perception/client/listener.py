"""For behaviour planners: the estimates of a running node as Python values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.qos import QoSProfile

from emotion_perception.core.values import PeopleEstimate
from emotion_perception.io.message_codec import TOPIC as TOPIC
from emotion_perception.ros.conversions import PersonEmotionArray, people_from_msg


def start_ros() -> None:
    """Initialise rclpy; signals stay with the caller.

    Raises:
        ValueError: ROS cannot start, with what is known of the reason.
    """
    try:
        rclpy.init(args=[], signal_handler_options=rclpy.SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:
        domain = os.environ.get("ROS_DOMAIN_ID", "")
        raise ValueError(
            f"ROS 2 cannot start (ROS_DOMAIN_ID={domain!r}, allowed is 0 to 232): {error}"
        ) from error


@contextmanager
def names_checked() -> Iterator[None]:
    """
    Raises:
        ValueError: ROS takes a name of a topic or node for none.
    """
    try:
        yield
    except NameValidationException as error:
        raise ValueError(" ".join(str(error).split())) from error


class EmotionListener:
    """Calls back with everybody's estimate, each time the node publishes."""

    def __init__(
        self,
        node: Node,
        callback: Callable[[PeopleEstimate], None],
        topic: str = TOPIC,
        depth: int = 10,
    ) -> None:
        """
        Args:
            node: the planner's own node, whose executor runs the callback.
            depth: messages that may wait for the callback; of more the oldest are dropped.

        Raises:
            ValueError: the topic has no valid name.
        """
        self._node = node
        with names_checked():
            self._subscription = node.create_subscription(
                PersonEmotionArray,
                topic,
                lambda message: callback(people_from_msg(message)),
                QoSProfile(depth=depth),
            )
        self.topic: str = self._subscription.topic_name

    @property
    def publishers(self) -> int:
        """How many nodes publish on the topic."""
        return self._node.count_publishers(self.topic)

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)
