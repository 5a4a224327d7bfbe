"""Publish estimates: the message of the node, and further forms of them."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Cause, Frame, PeopleEstimate, SourceStatus
from emotion_perception.io.overlay import draw_overlay
from emotion_perception.perception.privacy import FaceBlur
from emotion_perception.ros.conversions import (
    EmotionLabelInfo,
    PersonEmotionArray,
    image_to_msg,
    label_info_to_msg,
    people_to_msg,
)
from emotion_perception.ros.health import Finding
from emotion_perception.ros.markers import MarkerPublisher
from emotion_perception.ros.output import Output
from emotion_perception.ros.qos import overridable
from emotion_perception.ros.ros4hri import Ros4Hri
from emotion_perception.ros.vision_output import VisionOutput

_LAST_MESSAGE = Duration(seconds=0.2)
"""The longest wait for the subscribers to receive the last message."""


class EstimatePublisher:
    """Publishes `~/emotions`, `~/label_info` and further outputs between `open` and `close`."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._emotions: Any = None
        self._label_info: Any = None
        self._outputs: list[Output] = []
        self.published = 0
        """Number of messages on `~/emotions` since the node started."""
        self._published_s = 0.0

    @property
    def quiet_s(self) -> float:
        """Seconds since the last message on `~/emotions`."""
        return time.monotonic() - self._published_s

    def open(self, settings: Settings, recognizer: Recognizer) -> None:
        """Create the publishers; promise a message within each two heartbeats.

        Raises:
            ValueError: The messages of an output that is on are not installed.
            ModelError: Faces are to be blurred on a device that does not exist.
        """
        limit = Duration(seconds=2 * settings.heartbeat)
        check = functools.partial(_check_promise, settings.heartbeat)
        promised = QoSProfile(
            depth=10,
            deadline=limit,
            # Asserted by the executor: a thread of the middleware would also do so for a node that
            # hangs.
            liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
            liveliness_lease_duration=limit,
        )
        self._emotions = self._node.create_lifecycle_publisher(
            PersonEmotionArray,
            "~/emotions",
            promised,
            qos_overriding_options=overridable(check),
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        # Not a lifecycle publisher, which would drop what is published before activate.
        self._label_info = self._node.create_publisher(
            EmotionLabelInfo, "~/label_info", latched, qos_overriding_options=overridable()
        )
        self._label_info.publish(label_info_to_msg(recognizer))
        blur = FaceBlur(settings)
        self._outputs += [DebugImage(self._node, blur), MarkerPublisher(self._node)]
        if settings.vision_msgs:
            self._outputs.append(VisionOutput(self._node, recognizer))
        if settings.ros4hri.enabled:
            self._outputs.append(Ros4Hri(self._node, settings.ros4hri, blur))

    def publish(self, people: PeopleEstimate, frame: Frame | None) -> None:
        """Publish the estimates for a frame, if there was one."""
        self._publish_emotions(people)
        if frame is not None:
            for output in self._outputs:
                output.publish(people, frame)

    def publish_inactive(self, people: PeopleEstimate, cause: Cause) -> None:
        """Publish an empty list, so that subscribers do not keep the last estimates."""
        inactive = SourceStatus.INACTIVE
        people = replace(people, people=(), source_status=inactive, cause=cause)
        self._publish_emotions(people)
        for output in self._outputs:
            output.publish_inactive(people)

    def findings(self) -> list[Finding]:
        """Return what the outputs report in /diagnostics."""
        return [finding for output in self._outputs for finding in output.findings()]

    def assert_liveliness(self) -> None:
        """Tell the subscribers that the node works."""
        if self._emotions is not None:
            self._emotions.assert_liveliness()

    def close(self) -> None:
        """Destroy the publishers that exist, once the last message has arrived."""
        if self._emotions is not None and self._node.context.ok():
            self._emotions.wait_for_all_acked(_LAST_MESSAGE)
        if self._emotions is not None:
            self._node.destroy_lifecycle_publisher(self._emotions)
        if self._label_info is not None:
            self._node.destroy_publisher(self._label_info)
        self._emotions = self._label_info = None
        while self._outputs:
            self._outputs.pop().close()

    def _publish_emotions(self, people: PeopleEstimate) -> None:
        self.published += 1
        self._emotions.publish(people_to_msg(replace(people, sequence=self.published)))
        self._published_s = time.monotonic()


class DebugImage:
    """Publishes frames with the boxes drawn in, while subscribed to."""

    def __init__(self, node: LifecycleNode, blur: FaceBlur) -> None:
        """Create the publisher of `~/debug_image`."""
        self._node, self._blur = node, blur
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publisher = node.create_lifecycle_publisher(
            Image, "~/debug_image", best_effort, qos_overriding_options=overridable()
        )

    def publish(self, people: PeopleEstimate, frame: Frame) -> None:
        """Draw and publish the frame, if the topic has subscribers."""
        if self._publisher.get_subscription_count():
            shown = self._blur.frame(frame, [estimate.track.box for estimate in people.people])
            overlay = Frame(draw_overlay(shown, people), frame.stamp_ns, frame.camera)
            self._publisher.publish(image_to_msg(overlay))

    def publish_inactive(self, people: PeopleEstimate) -> None:
        """Publish nothing: there is no frame."""

    def findings(self) -> Sequence[Finding]:
        """Return nothing: there is nothing to report."""
        return ()

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_lifecycle_publisher(self._publisher)


def _check_promise(heartbeat_s: float, profile: QoSProfile) -> None:
    """Check that the heartbeat keeps what an overridden profile promises; 0 promises nothing.

    Raises:
        ValueError: It does not.
    """
    for policy in ("deadline", "liveliness_lease_duration"):
        promised_s = getattr(profile, policy).nanoseconds / 1e9
        if 0 < promised_s <= heartbeat_s:
            raise ValueError(
                f"cannot promise a {policy} of {promised_s:g} s on ~/emotions with a heartbeat of "
                f"{heartbeat_s:g} s; lower heartbeat, or raise the override of the {policy}"
            )
