"""Subscribe to the camera, decode its images, and record what arrives."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind

from emotion_perception.core.errors import FrameError, UnknownEncodingError
from emotion_perception.core.settings import UNKNOWN_ENCODING, Settings
from emotion_perception.core.values import Frame
from emotion_perception.io import image_decoding, video_stream
from emotion_perception.io.image_header import MAX_PIXELS
from emotion_perception.io.video_stream import VideoDecoder
from emotion_perception.perception.pipeline import Pipeline
from emotion_perception.ros.conversions import frame_by_cv_bridge
from emotion_perception.ros.health import CameraHealth, Finding
from emotion_perception.ros.qos import overridable
from emotion_perception.ros.waiting import waiting_messages

_DELAYS = 300  # messages
_VIDEO_DEPTH = 100  # messages of a video that may wait, since none can be left out


class _Transport(NamedTuple):
    """How images arrive."""

    suffix: str
    """Of the topic, as of image_transport of ROS."""
    msgtype: str
    is_video: bool = False
    """Whether an image refers to those before it."""

    def message_class(self) -> Any:
        """Return the class of the message.

        Raises:
            ValueError: Its package is not installed.
        """
        package, _, name = self.msgtype.split("/")
        try:
            return getattr(importlib.import_module(f"{package}.msg"), name)
        except ImportError as error:
            raise ValueError(
                f"image_transport = {self.suffix[1:]} needs the messages of {package}, which are "
                f"not installed; run `sudo apt install ros-$ROS_DISTRO-{package.replace('_', '-')}`"
            ) from error


TRANSPORTS = {
    "raw": _Transport("", image_decoding.IMAGE),
    "compressed": _Transport("/compressed", image_decoding.COMPRESSED_IMAGE),
    "ffmpeg": _Transport("/ffmpeg", video_stream.FFMPEG_PACKET, is_video=True),
    "foxglove": _Transport("/foxglove", video_stream.COMPRESSED_VIDEO, is_video=True),
}
"""Value of `image_transport` to what it means."""


class CameraSubscription:
    """The subscription to the images, which the node opens and closes."""

    def __init__(self, node: Node, on_image: Callable[[bytes, float], None]) -> None:
        """Subscribe to nothing yet.

        Args:
            node: The node that subscribes.
            on_image: Called with each serialized message, and the seconds that it waited.
        """
        self._node, self._on_image = node, on_image
        self._delays: deque[float] = deque(maxlen=_DELAYS)
        self._sequence: int | None = None
        self._subscription: Any = None
        self._transport = TRANSPORTS["raw"]
        self._video: VideoDecoder | None = None
        self._max_pixels, self._image_encoding = MAX_PIXELS, UNKNOWN_ENCODING
        self.health = CameraHealth("", 0.0)
        self.newest_ns = 0
        """Stamp of the newest image that arrived, processed or not."""

    @property
    def is_open(self) -> bool:
        """Whether the node is subscribed."""
        return self._subscription is not None

    @staticmethod
    def check(settings: Settings) -> None:
        """Check that images of the transport can be read.

        Raises:
            ValueError: The messages or PyAV are not installed.
        """
        transport = TRANSPORTS[settings.image_transport]
        transport.message_class()
        if transport.is_video:
            video_stream.check_installed(f"image_transport = {settings.image_transport} is video")

    def open(self, settings: Settings) -> None:
        """Subscribe to the topic of the transport."""
        self._transport = transport = TRANSPORTS[settings.image_transport]
        self._max_pixels, self._image_encoding = settings.max_pixels, settings.image_encoding
        self._video = VideoDecoder(settings.max_pixels) if transport.is_video else None
        topic = self._node.resolve_topic_name("image") + transport.suffix
        self.health = CameraHealth(topic, settings.silence)
        self._delays.clear()
        self._sequence = None
        self._subscription = self._node.create_subscription(
            transport.message_class(),
            topic,
            self._on_message,  # type: ignore[arg-type]  # rclpy's annotation lacks the second one
            # Best effort matches each publisher, and depth 1 keeps only the newest image.
            QoSProfile(
                depth=_VIDEO_DEPTH if transport.is_video else 1,
                reliability=ReliabilityPolicy.BEST_EFFORT,
            ),
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=self._on_incompatible_qos, message_lost=self._on_message_lost
            ),
            qos_overriding_options=overridable(),
        )
        self._node.get_logger().info(f"subscribed to {topic}")

    def close(self) -> None:
        """Unsubscribe, if subscribed."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def decode(self, raw: bytes, pipeline: Pipeline) -> Frame | None:
        """Return the frame of a message; None if the pipeline skips it.

        Raises:
            FrameError: The message cannot be decoded.
        """
        message = image_decoding.deserialize(raw, self._transport.msgtype)
        stamp_ns = self.newest_ns = image_decoding.stamp_ns(message)
        reason = pipeline.why_skipped(stamp_ns)
        self.health.judged(reason)
        if reason:
            if self._video is not None:
                image_decoding.skip_compressed(message, self._video)
            return None
        if self._transport.suffix:
            return image_decoding.frame_from_compressed(message, self._video, self._max_pixels)
        try:
            return image_decoding.frame_from_image(message, self._max_pixels, self._image_encoding)
        except UnknownEncodingError as error:
            try:
                return frame_by_cv_bridge(raw)
            except UnknownEncodingError as missing:
                raise UnknownEncodingError(f"{error}; {missing}") from error

    def report(self, now: float) -> Finding:
        """Return the finding of the last seconds; `now` is the monotonic time in seconds."""
        health = self.health
        if health.enabled:
            nodes = self._node.get_publishers_info_by_topic(health.topic)
            health.publishers = len(nodes)
            health.publisher_names = ", ".join(sorted(n.node_name for n in nodes[:5]))
            base = health.topic.removesuffix(self._transport.suffix)
            others = [base + transport.suffix for transport in TRANSPORTS.values()]
            used = [topic for topic in others if not nodes and self._node.count_publishers(topic)]
            health.other_topic = next(iter(used), "")
        return health.report(now)

    def _on_message(self, raw: bytes, info: Mapping[str, Any]) -> None:
        if self._video is not None:
            # Only the newest image is looked at, but each needs those before it.
            for following, its_info in waiting_messages(self._subscription):
                self._skip(raw, info, self._video)
                raw, info = following, its_info
        self._count_missing(info["publication_sequence_number"])
        self._on_image(raw, self._waited_s(info["source_timestamp"]))

    def _skip(self, raw: bytes, info: Mapping[str, Any], video: VideoDecoder) -> None:
        self._count_missing(info["publication_sequence_number"])
        self.health.missing += 1
        with contextlib.suppress(FrameError):  # if it is lasting, the newest image reports it
            message = image_decoding.deserialize(raw, self._transport.msgtype)
            image_decoding.skip_compressed(message, video)

    def _count_missing(self, sequence: int | None) -> None:
        """Count the images between this one and the last one: one publisher numbers its images."""
        before, self._sequence = self._sequence, sequence
        if sequence is not None and before is not None and self.health.publishers == 1:
            self.health.missing += max(sequence - before - 1, 0)

    def _waited_s(self, published_ns: int) -> float:
        """Return how much longer a message was under way than the fastest of the last ones.

        After a pause of this process the next image is an old one. The clock of another computer
        may differ from ours, but by the same amount for all of its messages.
        """
        delay = time.time() - published_ns / 1e9
        self._delays.append(delay)
        return delay - min(self._delays)

    def _on_incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self.health.incompatible_qos = policy.lower()

    def _on_message_lost(self, event: Any) -> None:
        self.health.lost += event.total_count_change
