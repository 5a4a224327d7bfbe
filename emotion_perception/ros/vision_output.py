"""Publish estimates as `vision_msgs`: boxes with ids, and labels as hypotheses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.values import Estimate, Frame, PeopleEstimate
from emotion_perception.ros.conversions import time_to_msg
from emotion_perception.ros.health import Finding
from emotion_perception.ros.output import optional_messages
from emotion_perception.ros.qos import overridable


class VisionOutput:
    """Publishes `~/detections` and, once for all, `~/detection_labels`.

    A person is a detection: its `id` is the person's, its results are the active labels with their
    scores, none unless the person is ASSESSED. Boxes are in pixels of the image.
    """

    def __init__(self, node: LifecycleNode, recognizer: Recognizer) -> None:
        """Create the publishers.

        Raises:
            ValueError: vision_msgs is not installed.
        """
        self._node = node
        self._types = types = optional_messages("vision_msgs", "vision_msgs = true")
        self._detections = node.create_publisher(
            types.Detection2DArray,
            "~/detections",
            QoSProfile(depth=10),
            qos_overriding_options=overridable(),
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._labels = node.create_publisher(
            types.LabelInfo, "~/detection_labels", latched, qos_overriding_options=overridable()
        )
        self._labels.publish(label_info(recognizer, node.get_clock().now().nanoseconds, types))

    def publish(self, people: PeopleEstimate, frame: Frame) -> None:
        """Publish the people of a frame."""
        self._detections.publish(people_to_detections(people, self._types))

    def publish_inactive(self, people: PeopleEstimate) -> None:
        """Publish an empty array."""
        self._detections.publish(people_to_detections(people, self._types))

    def findings(self) -> Sequence[Finding]:
        """Return nothing: there is nothing to report."""
        return ()

    def close(self) -> None:
        """Destroy the publishers."""
        self._node.destroy_publisher(self._detections)
        self._node.destroy_publisher(self._labels)


def people_to_detections(people: PeopleEstimate, types: Any) -> Any:
    """Convert estimates to a `vision_msgs/Detection2DArray`.

    Args:
        people: The estimates.
        types: The module `vision_msgs.msg`.
    """
    header = Header(stamp=time_to_msg(people.stamp_ns), frame_id=people.camera)
    return types.Detection2DArray(
        header=header,
        detections=[_detection(e, people.labels, header, types) for e in people.people],
    )


def label_info(recognizer: Recognizer, stamp_ns: int, types: Any) -> Any:
    """Convert the labels of a recognizer to a `vision_msgs/LabelInfo`.

    It has one threshold for all labels: the lowest of them.
    """
    return types.LabelInfo(
        header=Header(stamp=time_to_msg(stamp_ns)),
        class_map=[
            types.VisionClass(class_id=number, class_name=label)
            for number, label in enumerate(recognizer.labels)
        ],
        threshold=float(np.min(recognizer.thresholds)),
    )


def _detection(estimate: Estimate, labels: Sequence[str], header: Header, types: Any) -> Any:
    box = estimate.track.box
    detection = types.Detection2D(header=header, id=estimate.track.person_id)
    detection.bbox.center.position.x = (box.left + box.right) / 2
    detection.bbox.center.position.y = (box.top + box.bottom) / 2
    detection.bbox.size_x, detection.bbox.size_y = float(box.width), float(box.height)
    for label in estimate.active:
        assert estimate.scores is not None
        result = types.ObjectHypothesisWithPose()
        result.hypothesis.class_id = label
        result.hypothesis.score = float(estimate.scores[labels.index(label)])
        if all(map(math.isfinite, estimate.track.position)):
            place = result.pose.pose.position
            place.x, place.y, place.z = map(float, estimate.track.position)
        detection.results.append(result)
    return detection
