"""Subscribe to the depth image of the camera, and find the one that belongs to an image."""

from __future__ import annotations

from collections import deque
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from emotion_perception.core.errors import FrameError
from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Frame
from emotion_perception.io import image_decoding
from emotion_perception.io.image_header import MAX_PIXELS
from emotion_perception.perception.position import DepthImage
from emotion_perception.ros.conversions import lens_from_info
from emotion_perception.ros.health import DepthHealth, Finding
from emotion_perception.ros.qos import overridable
from emotion_perception.ros.waiting import waiting_messages

_KEPT = 10  # depth images, of which one belongs to the next image
_ASPECT = 0.01  # by which the shapes of both images may differ


class DepthSubscription:
    """The subscriptions to depth image and calibration, which the node opens and closes."""

    def __init__(self, node: Node) -> None:
        """Subscribe to nothing yet."""
        self._node = node
        self._images: Any = None
        self._camera_infos: Any = None
        self._camera_info: CameraInfo | None = None
        self._kept: deque[tuple[int, Any]] = deque(maxlen=_KEPT)
        self._max_pixels, self._unreadable = MAX_PIXELS, ""
        self.health = DepthHealth("")

    def open(self, settings: Settings) -> None:
        """Subscribe, if the settings say so."""
        if not settings.depth.enabled:
            return
        self._max_pixels = settings.max_pixels
        self._unreadable = ""
        self.health = DepthHealth(self._node.resolve_topic_name("depth/image"))
        self._images = self._node.create_subscription(
            Image,
            "depth/image",
            self._on_image,
            # Of a node that was busy, all that may belong to the newest image.
            QoSProfile(depth=_KEPT, reliability=ReliabilityPolicy.BEST_EFFORT),
            raw=True,
            qos_overriding_options=overridable(),
        )
        self._camera_infos = self._node.create_subscription(
            CameraInfo,
            "camera_info",
            self._on_camera_info,
            QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
            qos_overriding_options=overridable(),
        )

    def close(self) -> None:
        """Unsubscribe, if subscribed."""
        for subscription in (self._images, self._camera_infos):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._images = self._camera_infos = self._camera_info = None
        self._kept.clear()

    def at(self, frame: Frame, tolerance_s: float) -> DepthImage | None:
        """Return the depth image that belongs to a frame; None, with the reason noted, without.

        It is the one with the nearest stamp among those that have arrived: an image is not held
        back for a depth image that comes after it.
        """
        if self._images is None:
            return None
        for raw, _ in waiting_messages(self._images):
            self._on_image(raw)
        try:
            depth = self._find(frame, tolerance_s)
        except FrameError as error:
            self.health.missed(str(error))
            return None
        self.health.matched += 1
        return depth

    def report(self, now: float) -> Finding | None:
        """Return the finding of the last seconds, if subscribed; `now` is the monotonic time."""
        if self._images is None:
            return None
        self.health.publishers = self._node.count_publishers(self.health.topic)
        return self.health.report(now)

    def _on_image(self, raw: bytes) -> None:
        self.health.received += 1
        try:
            message = image_decoding.deserialize(raw, image_decoding.IMAGE)
            self._kept.append((image_decoding.stamp_ns(message), message))
        except FrameError as error:
            self._unreadable = str(error)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message

    def _find(self, frame: Frame, tolerance_s: float) -> DepthImage:
        """Return the depth image of a frame.

        Raises:
            FrameError: There is none that can be used; the message says why.
        """
        if not self._kept:
            raise FrameError(self._unreadable or "none has arrived")
        stamp_ns, message = min(self._kept, key=lambda kept: abs(kept[0] - frame.stamp_ns))
        difference_s = abs(stamp_ns - frame.stamp_ns) / 1e9
        if difference_s > tolerance_s:
            raise FrameError(
                f"the nearest stamp differs by {difference_s:.3f} s; raise depth.tolerance "
                f"({tolerance_s:g} s), or let the driver synchronise both images"
            )
        if message.header.frame_id != frame.camera:
            raise FrameError(
                f"its frame_id is {message.header.frame_id!r} and that of the image "
                f"{frame.camera!r}; publish a depth image that is registered to the image"
            )
        pixels, metres = image_decoding.depth_from_image(message, self._max_pixels)
        height, width = pixels.shape
        if abs(width * frame.height / (height * frame.width) - 1) > _ASPECT:
            raise FrameError(
                f"its shape is {width} x {height} and that of the image {frame.width} x "
                f"{frame.height}; publish a depth image that is registered to the image"
            )
        if self._camera_info is None:
            topic = self._node.resolve_topic_name("camera_info")
            raise FrameError(f"no CameraInfo arrives on {topic}; publish it there")
        lens = lens_from_info(self._camera_info, width, height)
        if lens is None:
            raise FrameError("the CameraInfo holds no focal length; calibrate the camera")
        return DepthImage(pixels, metres, lens)
