"""Draw the box and label of each person as markers, for RViz and Foxglove.

Both project markers of the camera's frame into the image by its `CameraInfo`. So a box is drawn on
the plane in front of the camera on which it covers the person: at their distance where that is
known, else a metre away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import Point
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from emotion_perception.core.values import Estimate, Frame, Lens, PeopleEstimate, Status
from emotion_perception.io.overlay import STATUS_COLOURS, caption
from emotion_perception.ros.conversions import lens_from_info, time_to_msg
from emotion_perception.ros.health import Finding
from emotion_perception.ros.qos import overridable

_DISTANCE = 1.0  # metres, without depth
_LIFETIME = 2.0  # seconds after which a marker disappears unless it is renewed
_LINE, _LETTERS = 0.006, 0.045  # metres at a distance of one metre


class MarkerPublisher:
    """Publish `~/markers` while subscribed to and while the camera calibration is known."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._publisher = node.create_lifecycle_publisher(
            MarkerArray,
            "~/markers",
            QoSProfile(depth=1),
            qos_overriding_options=overridable(),
        )
        self._camera_info: CameraInfo | None = None
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._subscription = node.create_subscription(
            CameraInfo,
            "camera_info",
            self._on_camera_info,
            best_effort,
            qos_overriding_options=overridable(),
        )
        self._complained = False

    def publish(self, people: PeopleEstimate, frame: Frame) -> None:
        """Publish the markers of all people, if the topic has subscribers."""
        if not self._publisher.get_subscription_count():
            return
        if self._camera_info is None:
            if not self._complained:
                topic = self._node.resolve_topic_name("camera_info")
                self._node.get_logger().warning(
                    f"cannot place markers: no CameraInfo arrives on {topic}; publish it there"
                )
            self._complained = True
            return
        self._publisher.publish(people_to_markers(people, self._camera_info))

    def publish_inactive(self, people: PeopleEstimate) -> None:
        """Remove the markers."""
        if self._publisher.get_subscription_count() and self._camera_info is not None:
            self._publisher.publish(people_to_markers(people, self._camera_info))

    def findings(self) -> Sequence[Finding]:
        """Return nothing: there is nothing to report."""
        return ()

    def close(self) -> None:
        """Unsubscribe and stop publishing."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_lifecycle_publisher(self._publisher)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message


def people_to_markers(people: PeopleEstimate, camera_info: CameraInfo) -> MarkerArray:
    """Return a rectangle and a line of text per person, after the removal of former markers.

    Args:
        people: the estimates.
        camera_info: of the camera that took the image, for the size in which it took it or another.
    """
    header = Header(stamp=time_to_msg(people.stamp_ns), frame_id=people.camera)
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    lens = lens_from_info(camera_info, people.width, people.height)
    if lens is not None:
        for number, estimate in enumerate(people.people):
            markers += _of_person(number, estimate, header, lens)
    return MarkerArray(markers=markers)


def _of_person(number: int, estimate: Estimate, header: Header, lens: Lens) -> list[Marker]:
    fx, fy, cx, cy = lens
    z = estimate.track.position[2]
    depth = z if math.isfinite(z) and z > 0 else _DISTANCE
    box = estimate.track.box

    def at(x: float, y: float) -> Point:
        return Point(x=(x - cx) / fx * depth, y=(y - cy) / fy * depth, z=depth)

    corners = [at(box.left, box.top), at(box.right, box.top), at(box.right, box.bottom),
               at(box.left, box.bottom), at(box.left, box.top)]  # fmt: skip
    red, green, blue = (value / 255 for value in STATUS_COLOURS[Status(estimate.status)])
    common: dict[str, Any] = {
        "header": header,
        "id": number,
        "action": Marker.ADD,
        "color": ColorRGBA(r=red, g=green, b=blue, a=1.0),
        "lifetime": Duration(seconds=_LIFETIME).to_msg(),
    }
    outline = Marker(ns="box", type=Marker.LINE_STRIP, points=corners, **common)
    outline.scale.x = _LINE * depth
    text = Marker(ns="label", type=Marker.TEXT_VIEW_FACING, text=caption(estimate), **common)
    text.pose.position = at((box.left + box.right) / 2, box.top)
    text.pose.position.y -= _LETTERS * depth
    text.scale.z = _LETTERS * depth
    for marker in (outline, text):
        marker.pose.orientation.w = 1.0
    return [outline, text]
