"""Read images from rosbags, and write estimates to new ones.

Bags of ROS 2 (sqlite3 and MCAP, plain or compressed) and of ROS 1 are read; MCAP is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from emotion_perception.core.errors import FrameError
from emotion_perception.core.reasons import ReasonCounter
from emotion_perception.core.settings import UNKNOWN_ENCODING
from emotion_perception.core.values import Frame, PeopleEstimate
from emotion_perception.io.bag_files import RawBag, RawMessage, Topic
from emotion_perception.io.image_decoding import (
    COMPRESSED_IMAGE,
    IMAGE,
    compressed_data,
    frame_from_compressed,
    frame_from_image,
)
from emotion_perception.io.image_header import MAX_PIXELS
from emotion_perception.io.message_codec import PEOPLE, PERSON, TOPIC, MessageTypes, people_to_msg
from emotion_perception.io.video_stream import MESSAGE_DEFINITIONS as VIDEO_DEFINITIONS
from emotion_perception.io.video_stream import VideoDecoder, codec_of

_ENCODINGS = {
    IMAGE: ("cdr", "ros1"),
    COMPRESSED_IMAGE: ("cdr", "ros1"),
    **dict.fromkeys(VIDEO_DEFINITIONS, ("cdr",)),
}
"""Message types with images, and their serializations that are read."""

_MESSAGE_DEFINITIONS = Path(__file__).parents[1] / "data" / "msg"


class RecordedImage(NamedTuple):
    """An image message of a bag."""

    received_ns: int
    """Time of recording, on the recorder's clock."""
    frame: Frame | None
    """None if the message holds no valid image; `Bag.skipped` has the reason."""
    message: Any
    """The message object of rosbags; None if it cannot be deserialized."""


class Bag:
    """The images of one topic of a bag. A context manager that keeps the files open."""

    def __init__(
        self,
        path: Path | str,
        topic: str = "",
        max_pixels: int = MAX_PIXELS,
        image_encoding: str = UNKNOWN_ENCODING,
    ) -> None:
        """Open a bag.

        Args:
            path: A ROS 2 bag (a folder, or an .mcap or .db3 file) or a ROS 1 .bag file.
            topic: The topic of the images; empty: the only topic with images.
            max_pixels: The largest number of pixels of an image.
            image_encoding: The meaning of images without a channel order, as the setting says.

        Raises:
            ValueError: The bag does not exist, is damaged, or has no such topic.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise ValueError(
                f"cannot read {path}: it does not exist; give a bag folder, an .mcap, .db3 or "
                ".bag file, or a video"
            )
        self.skipped = ReasonCounter()
        """Reason to the number of messages that hold no valid image for this reason."""
        self._max_pixels, self._image_encoding = max_pixels, image_encoding
        self._raw = RawBag(self.path)
        try:
            self._topics = self._image_topics(topic)
            self._span = self._raw.span(self._topics)
        except ValueError:
            self.close()
            raise
        self.topic = next(iter(self._topics)).name

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of the bag."""
        self._raw.close()

    def __len__(self) -> int:
        """Return the number of messages of the topic that the bag states."""
        return sum(self._raw.topics[topic] for topic in self._topics)

    @property
    def start_ns(self) -> int:
        """Time of the first image, on the recorder's clock."""
        return self._span[0] if self._span else 2**63 - 1

    @property
    def end_ns(self) -> int:
        """Time after the last image, on the recorder's clock."""
        return self._span[1] + 1 if self._span else 0

    def fingerprint(self) -> str:
        """Return 16 letters that change with the topic, its times and its first image."""
        first = next(self._raw.messages(self._topics), None)
        digest = hashlib.sha256(first.data if first else b"")
        received_ns = first.received_ns if first else 0
        identity = (self.topic, len(self), self.start_ns, self.end_ns, received_ns)
        digest.update(repr(identity).encode())
        return digest.hexdigest()[:16]

    def skip_warnings(self) -> list[str]:
        """Return how many messages hold no image for which reason, the most common first."""
        return [
            f"{count} messages are not readable images: {reason}"
            for reason, count in self.skipped.most_common()
        ]

    def images(
        self, start: float = 0.0, duration: float | None = None, every: int = 1
    ) -> Iterator[RecordedImage]:
        """Yield the images in recording order.

        Args:
            start: Seconds after the first image.
            duration: Seconds after `start`; None: to the end.
            every: Decode only every n-th image.

        Raises:
            ValueError: The bag is damaged; the images before the damage have been yielded.
        """
        start_ns = self.start_ns + round(start * 1e9) if start else None
        end_ns = None if duration is None else (start_ns or self.start_ns) + round(duration * 1e9)
        video, number = VideoDecoder(self._max_pixels), 0
        in_order = self._holds_video()  # each image needs those before it, selected or not
        for raw in self._raw.messages(self._topics, None if in_order else start_ns, end_ns):
            selected = start_ns is None or raw.received_ns >= start_ns
            wanted = selected and number % every == 0
            number += selected
            if not (wanted or in_order):
                continue
            image, reason = self._decode(raw, video)
            if not wanted:
                continue
            if reason:
                self.skipped.count(reason)
            yield image

    def _holds_video(self) -> bool:
        """Return whether the first message that can be read is an image of a video."""
        for raw in self._raw.messages(self._topics):
            if raw.topic.msgtype == IMAGE:
                return False
            try:
                return bool(codec_of(*compressed_data(_deserialize(raw))))
            except SerdeError:
                continue
        return False

    def _decode(self, raw: RawMessage, video: VideoDecoder) -> tuple[RecordedImage, str]:
        """Return the image of a message, and why it has none; empty if it has one."""
        message, msgtype, reason = None, raw.topic.msgtype, ""
        try:
            message = _deserialize(raw)
            if msgtype == IMAGE:
                frame = frame_from_image(message, self._max_pixels, self._image_encoding)
            else:
                frame = frame_from_compressed(message, video, self._max_pixels)
            return RecordedImage(raw.received_ns, frame, message), ""
        except FrameError as error:
            reason = str(error)
        except SerdeError:
            reason = f"not a valid {msgtype}"
        return RecordedImage(raw.received_ns, None, message), reason

    def _image_topics(self, name: str) -> set[Topic]:
        topics = self._raw.topics
        images = {t for t in topics if t.encoding in _ENCODINGS.get(t.msgtype, ())}
        names = sorted({topic.name for topic in images})
        choices = ", ".join(names) or "none"
        if name and name not in names:
            content = [f"{t.msgtype} ({t.encoding})" for t in topics if t.name == name]
            reason = f"holds {content[0]}" if content else "is not in the bag"
            raise ValueError(f"the topic {name} {reason}; topics with images: {choices}")
        if not names:
            raise ValueError(f"{self.path} has no topic with images")
        if not name and len(names) > 1:
            raise ValueError(f"{self.path} has several topics with images; choose one of {choices}")
        return {topic for topic in images if topic.name == (name or names[0])}


def _deserialize(raw: RawMessage) -> Any:
    if raw.topic.encoding == "ros1":
        return _ros1_types().deserialize_ros1(raw.data, raw.topic.msgtype)
    return typestore().deserialize_cdr(raw.data, raw.topic.msgtype)


class EstimatesBag:
    """A new ROS 2 bag (MCAP) of `PersonEmotionArray` messages, and of images where they are added.

    The bag contains the definitions of its messages, so that other tools can read it without this
    package. A context manager; the bag is complete after the block.
    """

    def __init__(self, path: Path | str, image_topic: str = "") -> None:
        """Create a bag.

        Args:
            path: A folder that does not exist.
            image_topic: The topic of the images that `add_image` adds; empty if it adds none.

        Raises:
            ValueError: The folder exists or cannot be created.
        """
        self._store = typestore()
        try:
            self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise ValueError(f"cannot write the bag {path}: {error}") from error
        self._people = self._writer.add_connection(
            TOPIC, PEOPLE, typestore=self._store, offered_qos_profiles=[_RELIABLE]
        )
        self._image_topic = image_topic
        self._images: dict[str, Any] = {}

    def __enter__(self) -> EstimatesBag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self._writer.abort() if kind else self._writer.close()

    def add(self, people: PeopleEstimate, time_ns: int) -> None:
        """Add the estimates at a time of the recorder's clock."""
        message = people_to_msg(people, _message_types())
        self._writer.write(self._people, time_ns, self._store.serialize_cdr(message, PEOPLE))

    def add_image(self, image: RecordedImage) -> None:
        """Add an image message as it was recorded, unless it cannot be deserialized."""
        if image.message is None:
            return
        msgtype = image.message.__msgtype__
        if msgtype not in self._images:
            self._images[msgtype] = self._writer.add_connection(
                self._image_topic,
                msgtype,
                typestore=self._store,
                offered_qos_profiles=[_BEST_EFFORT],
            )
        message = _to_ros2(image.message, self._store)
        self._writer.write(
            self._images[msgtype], image.received_ns, self._store.serialize_cdr(message, msgtype)
        )


def image_message(frame: Frame) -> Any:
    """Return the frame as an rgb8 `sensor_msgs/Image`, to be serialized by `typestore()`."""
    types, store = _message_types(), typestore()
    return store.types[IMAGE](
        header=types.header(
            stamp=types.time(sec=frame.stamp_ns // 10**9, nanosec=frame.stamp_ns % 10**9),
            frame_id=frame.camera,
        ),
        height=frame.height,
        width=frame.width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * frame.width,
        data=np.ascontiguousarray(frame.image).reshape(-1),
    )


def _to_ros2(message: Any, store: Any) -> Any:
    """Return the message with a header of ROS 2; that of ROS 1 has a sequence number as well."""
    if not hasattr(message, "header"):
        return message
    types, header = _message_types(), message.header
    fields = {
        name: getattr(message, name) for name in message.__dataclass_fields__ if name[0] != "_"
    }
    stamp = types.time(sec=header.stamp.sec, nanosec=header.stamp.nanosec)
    fields["header"] = types.header(stamp=stamp, frame_id=header.frame_id)
    return store.types[message.__msgtype__](**fields)


@cache
def typestore() -> Any:
    """Return the message types of ROS 2 and of this package, for rosbags."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name in (PERSON, PEOPLE):
        text = (_MESSAGE_DEFINITIONS / f"{name.rpartition('/')[2]}.msg").read_text()
        types |= get_types_from_msg(text, name)
    for name, text in VIDEO_DEFINITIONS.items():
        types |= get_types_from_msg(text, name)
    store.register(types)
    return store


@cache
def _ros1_types() -> Any:
    return get_typestore(Stores.ROS1_NOETIC)


@cache
def _message_types() -> MessageTypes:
    types = typestore().types
    return MessageTypes(
        people=types[PEOPLE],
        person=types[PERSON],
        header=types["std_msgs/msg/Header"],
        time=types["builtin_interfaces/msg/Time"],
        point=types["geometry_msgs/msg/Point"],
        roi=types["sensor_msgs/msg/RegionOfInterest"],
        floats=lambda values: np.asarray(values, np.float32),
    )


def _qos(reliability: QosReliability) -> Qos:
    forever = QosTime(sec=9223372036, nsec=854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=10,
        reliability=reliability,
        durability=QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


_RELIABLE, _BEST_EFFORT = _qos(QosReliability.RELIABLE), _qos(QosReliability.BEST_EFFORT)
