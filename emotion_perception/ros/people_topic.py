"""Take the boxes of people from another node instead of a detector of our own.

    detections    vision_msgs/Detection2DArray            (detector.source: detections)
    <root>/bodies/tracked, <root>/bodies/<id>/roi         (detector.source: bodies, ROS4HRI)

An image is held until the boxes with its stamp arrive, at most `detector.wait` seconds.
"""

from __future__ import annotations

import functools
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from emotion_perception.core.errors import FrameError
from emotion_perception.core.settings import Settings, TopicDetectorSettings
from emotion_perception.core.values import Detections, Frame
from emotion_perception.io import image_decoding
from emotion_perception.perception.frame_matching import FrameMatcher, Match, SourceBoxes
from emotion_perception.ros.camera import TRANSPORTS
from emotion_perception.ros.conversions import time_from_msg
from emotion_perception.ros.output import optional_messages
from emotion_perception.ros.qos import overridable

_MAX_PEOPLE = 64  # in one message; the rest is left out
_MAX_LISTS = 30
_ABSENT_S = 2.0  # after which the region of a body that is in no list is no longer subscribed to
_BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


class _Source(Protocol):
    """The subscriptions to a kind of topic."""

    topic: str

    def close(self) -> None:
        """Unsubscribe."""
        ...


class PeopleTopic:
    """A detector whose boxes arrive on a topic. The executor calls all of it."""

    def __init__(
        self,
        node: Node,
        settings: Settings,
        on_ready: Callable[[bytes, float], None],
        on_dropped: Callable[[str], None],
    ) -> None:
        """Load the messages; `open` subscribes.

        Args:
            node: The node that subscribes.
            settings: Those of the node, with this detector.
            on_ready: Called with a serialized image and the seconds that it waited, once `detect`
                can return its people.
            on_dropped: Called with the reason for each image that is dropped without boxes.

        Raises:
            ValueError: The messages are not installed, the images are video, or the node would hear
                itself.
        """
        assert isinstance(settings.detector, TopicDetectorSettings)
        self._node, self._settings, self._root = node, settings.detector, settings.ros4hri.root
        self._on_ready, self._on_dropped = on_ready, on_dropped
        if TRANSPORTS[settings.image_transport].is_video:
            raise ValueError(
                f"cannot use image_transport = {settings.image_transport} with detector.name = "
                "topic: an image of a video needs all before it, and those without boxes are left "
                "out; set image_transport to raw or compressed"
            )
        bodies = self._settings.source == "bodies"
        if bodies and settings.ros4hri.enabled:
            raise ValueError(
                f"cannot publish people on {self._root}/bodies and read them from there; set "
                "ros4hri.enabled to false, or detector.source to detections"
            )
        package = "hri_msgs" if bodies else "vision_msgs"
        self._types = optional_messages(package, f"detector.source = {self._settings.source}")
        self._source: _Source | None = None
        self._matcher = FrameMatcher(self._settings.tolerance, self._settings.wait)
        self._matched: SourceBoxes | None = None

    def open(self) -> None:
        """Subscribe to the boxes."""
        self._matcher = FrameMatcher(self._settings.tolerance, self._settings.wait)
        if self._settings.source == "bodies":
            self._source = _Bodies(
                self._node, self._types, self._root, self._settings, self._on_boxes
            )
        else:
            self._source = _DetectionArrays(
                self._node, self._types, self._settings.person_class, self._on_boxes
            )

    def unsubscribe(self) -> None:
        """Unsubscribe, if subscribed."""
        if self._source is not None:
            self._source.close()
        self._source = None

    def hold(self, raw: bytes, waited_s: float) -> None:
        """Take a serialized image, which waits for its boxes.

        Raises:
            FrameError: It has no valid stamp.
        """
        before = self._matcher.dropped
        match = self._matcher.add_image(image_decoding.serialized_stamp_ns(raw), (raw, waited_s))
        for _ in range(self._matcher.dropped - before):
            self._on_dropped(self._reason())
        self._process(match)

    def detect(self, frame: Frame) -> Detections:
        """Return the people in the image that `on_ready` was called with.

        Raises:
            FrameError: The source gives no ids, and the settings ask for them.
        """
        assert self._matched is not None
        with_ids = self._settings.ids == "source"
        detections = self._matched.detections(frame, with_ids)
        if with_ids and len(detections) and not any(self._matched.ids):
            raise FrameError(
                "the boxes have no id; set detector.ids to tracker, or let the source track people"
            )
        return detections

    def close(self) -> None:
        """Unsubscribe."""
        self.unsubscribe()

    def _on_boxes(self, boxes: SourceBoxes) -> None:
        self._process(self._matcher.add_boxes(boxes))

    def _process(self, match: Match | None) -> None:
        if match is not None:
            raw, waited_s = match.image
            self._matched = match.boxes
            self._on_ready(raw, waited_s + match.held_s)

    def _reason(self) -> str:
        topic = self._source.topic if self._source is not None else ""
        wait = f"{self._settings.wait:g} s (detector.wait)"
        if self._matcher.late:
            return f"the boxes on {topic} arrive more than {wait} after their image; raise it"
        if not self._node.count_publishers(topic):
            return f"no node publishes boxes on {topic}; start the one that detects people"
        return (
            f"no boxes with the stamp of the image arrive on {topic} within {wait}; check that the "
            "node there gets images and copies their stamps, or raise detector.tolerance"
        )


class _DetectionArrays:
    """Boxes in `vision_msgs/Detection2DArray`."""

    def __init__(
        self, node: Node, types: Any, person_class: str, on_boxes: Callable[[SourceBoxes], None]
    ) -> None:
        self._node, self._on_boxes = node, on_boxes
        self._class = person_class.strip().casefold()
        self.topic = node.resolve_topic_name("detections")
        self._subscription = node.create_subscription(
            types.Detection2DArray,
            "detections",
            self._on_message,
            _BEST_EFFORT,
            qos_overriding_options=overridable(),
        )

    def close(self) -> None:
        self._node.destroy_subscription(self._subscription)

    def _on_message(self, message: Any) -> None:
        corners: list[tuple[float, ...]] = []
        confidence: list[float] = []
        ids: list[str] = []
        for detection in message.detections:
            score = self._score(detection)
            if score is None or len(ids) == _MAX_PEOPLE:
                continue
            x, y = detection.bbox.center.position.x, detection.bbox.center.position.y
            half, high = detection.bbox.size_x / 2, detection.bbox.size_y / 2
            corners.append((x - half, y - high, x + half, y + high))
            confidence.append(score)
            ids.append(detection.id)
        stamp_ns = time_from_msg(message.header.stamp)
        self._on_boxes(
            SourceBoxes(stamp_ns, np.asarray(corners), np.asarray(confidence), tuple(ids))
        )

    def _score(self, detection: Any) -> float | None:
        """Return the score with which it is a person, None if it is not."""
        scores = [
            result.hypothesis.score
            for result in detection.results
            if not self._class or result.hypothesis.class_id.casefold() == self._class
        ]
        if not scores and not self._class:
            return 1.0
        return max(scores) if scores else None


class _Bodies:
    """Bodies of ROS4HRI: a list with the stamp of the image, and a region per body.

    A region without a stamp, as hri_body_detect sends it, is taken for the newest list. A body
    whose region does not arrive within half of `detector.wait` is left out of the frame.
    """

    def __init__(
        self,
        node: Node,
        types: Any,
        root: str,
        settings: TopicDetectorSettings,
        on_boxes: Callable[[SourceBoxes], None],
    ) -> None:
        self._node, self._types, self._on_boxes = node, types, on_boxes
        self._tolerance_ns, self._wait_s = round(settings.tolerance * 1e9), settings.wait / 2
        self._root = root
        self.topic = node.resolve_topic_name(f"{root}/bodies/tracked")
        self._lists: deque[tuple[int, tuple[str, ...], float]] = deque(maxlen=_MAX_LISTS)
        self._regions: dict[str, deque[tuple[int, Any]]] = {}
        self._subscriptions: dict[str, tuple[Any, float]] = {}
        self._tracked = node.create_subscription(
            types.IdsList,
            self.topic,
            self._on_list,
            _BEST_EFFORT,
            qos_overriding_options=overridable(),
        )

    def close(self) -> None:
        self._node.destroy_subscription(self._tracked)
        for subscription, _ in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _on_list(self, message: Any) -> None:
        ids = tuple(i for i in message.ids[:_MAX_PEOPLE] if _is_token(i))
        now = time.monotonic()
        for body_id in ids:
            subscription = (
                self._subscriptions[body_id][0]
                if body_id in self._subscriptions
                else self._subscribe(body_id)
            )
            self._subscriptions[body_id] = (subscription, now)
        absent = [i for i, (_, at) in self._subscriptions.items() if now - at > _ABSENT_S]
        for body_id in absent:
            self._node.destroy_subscription(self._subscriptions.pop(body_id)[0])
            self._regions.pop(body_id, None)
        self._lists.append((time_from_msg(message.header.stamp), ids, now))
        self._complete()

    def _subscribe(self, body_id: str) -> Any:
        self._regions[body_id] = deque(maxlen=_MAX_LISTS)
        return self._node.create_subscription(
            self._types.NormalizedRegionOfInterest2D,
            f"{self._root}/bodies/{body_id}/roi",
            functools.partial(self._on_region, body_id),
            _BEST_EFFORT,
        )

    def _on_region(self, body_id: str, message: Any) -> None:
        if body_id in self._regions:
            self._regions[body_id].append((time_from_msg(message.header.stamp), message))
            self._complete()

    def _complete(self) -> None:
        """Hand on each list whose regions have arrived, or that waited for them long enough."""
        now = time.monotonic()
        while self._lists:
            stamp_ns, ids, arrived = self._lists[0]
            regions = {body_id: self._region(body_id, stamp_ns) for body_id in ids}
            if None in regions.values() and now - arrived <= self._wait_s:
                return
            self._lists.popleft()
            present = {i: region for i, region in regions.items() if region is not None}
            corners = [(r.xmin, r.ymin, r.xmax, r.ymax) for r in present.values()]
            # ROS sends 0 for what the source does not set.
            confidence = [r.c or 1.0 for r in present.values()]
            self._on_boxes(
                SourceBoxes(
                    stamp_ns, np.asarray(corners), np.asarray(confidence), tuple(present), True
                )
            )

    def _region(self, body_id: str, stamp_ns: int) -> Any:
        """Return the region of a body in the image with this stamp; None if it has not arrived."""
        regions = self._regions.get(body_id, ())
        best, difference_ns = None, math.inf
        for region_ns, region in regions:
            if region_ns == 0 and math.isinf(difference_ns):
                best = region
            elif abs(region_ns - stamp_ns) <= min(self._tolerance_ns, difference_ns):
                best, difference_ns = region, abs(region_ns - stamp_ns)
        return best


def _is_token(text: str) -> bool:
    """Return whether a text can be a part of the name of a topic."""
    return text.isascii() and text.isidentifier()
