"""Recorded bags: images out of them (ROS 2: sqlite3 and MCAP, plain or compressed; ROS 1), and
estimates into new ones."""

from __future__ import annotations

import hashlib
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import apsw
import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import ReaderError as ReaderError1
from rosbags.rosbag2 import ReaderError as ReaderError2
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError
else:
    from backports.zstd import ZstdError

from emotion_perception.core.errors import FrameError
from emotion_perception.core.values import Frame, PeopleEstimate
from emotion_perception.io.image_decoding import (
    COMPRESSED_IMAGE,
    IMAGE,
    frame_from_compressed,
    frame_from_image,
)
from emotion_perception.io.message_codec import PEOPLE, PERSON, TOPIC, MessageTypes, people_to_msg

_TO_FRAME: dict[str, Any] = {IMAGE: frame_from_image, COMPRESSED_IMAGE: frame_from_compressed}

_UNREADABLE = (
    *(AnyReaderError, ReaderError1, ReaderError2, SerdeError, ZstdError, struct.error, OSError),
    *(ValueError, IndexError, TypeError, AssertionError, KeyError, EOFError, RuntimeError),
    *(OverflowError, MemoryError, apsw.Error),
)
"""What rosbags, zstd, lz4 and SQLite raise for bytes that are not what they claim to be."""

_MESSAGES = Path(__file__).parents[1] / "data" / "msg"


class RecordedImage(NamedTuple):
    """One image message of a bag."""

    received_ns: int
    """When the recorder got it, on the recorder's clock."""
    frame: Frame | None
    """None if it is no picture; `Bag.skipped` says why."""
    message: Any
    """As rosbags read it; None if it could not."""


class Bag:
    """The images of one topic of a bag. A context manager, since files stay open meanwhile."""

    def __init__(self, path: Path | str, topic: str = "") -> None:
        """
        Args:
            path: of a ROS 2 bag (a folder, or an .mcap or .db3 file) or a ROS 1 .bag file.
            topic: of images; empty: the only one that there is.

        Raises:
            ValueError: there is no such bag, it is damaged, or has no such topic.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise ValueError(f"{path} does not exist: expected a bag")
        self.skipped: Counter[str] = Counter()
        """Messages that are no pictures: the reason to their number."""
        try:
            self._reader = AnyReader(
                [self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY)
            )
            self._reader.open()
        except _UNREADABLE as error:
            raise ValueError(
                f"{path} is no bag that can be read: {_remedy(self.path, error)}"
            ) from error
        try:
            self._connections = self._of(topic)
        except ValueError:
            self.close()
            raise
        self.topic = self._connections[0].topic

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of the bag."""
        self._reader.close()

    def __len__(self) -> int:
        """Messages of the topic, as the bag counts them."""
        return sum(connection.msgcount for connection in self._connections)

    @property
    def start_ns(self) -> int:
        """When the bag begins, on the recorder's clock."""
        return int(self._reader.start_time)

    @property
    def end_ns(self) -> int:
        """When it ends."""
        return int(self._reader.end_time)

    def fingerprint(self) -> str:
        """Tells this bag from others, cheaply: by its topic, its times and its first image."""
        first = next(self._messages(self.start_ns, None), (None, 0, b""))
        digest = hashlib.sha256(first[2])
        about = (self.topic, len(self), self.start_ns, self.end_ns, first[1])
        digest.update(repr(about).encode())
        return digest.hexdigest()[:16]

    def images(
        self, start: float = 0.0, duration: float | None = None, every: int = 1
    ) -> Iterator[RecordedImage]:
        """The images in the order of the recording.

        Args:
            start: seconds after the beginning of the bag.
            duration: seconds from there; None: to the end.
            every: only each so manieth image is decoded and given.

        Raises:
            ValueError: the bag is damaged somewhere; all before was given.
        """
        first = self.start_ns + round(start * 1e9)
        last = None if duration is None else first + round(duration * 1e9)
        for number, (connection, received_ns, raw) in enumerate(self._messages(first, last)):
            if number % every == 0:
                yield self._image(connection, received_ns, raw)

    def _messages(self, first: int, last: int | None) -> Iterator[tuple[Any, int, bytes]]:
        try:
            yield from self._reader.messages(self._connections, first, last)
        except _UNREADABLE as error:
            raise ValueError(f"{self.path} is damaged from here on: {_words(error)}") from error

    def _image(self, connection: Any, received_ns: int, raw: bytes) -> RecordedImage:
        message = None
        try:
            message = self._reader.deserialize(raw, connection.msgtype)
            return RecordedImage(received_ns, _TO_FRAME[connection.msgtype](message), message)
        except FrameError as error:
            self.skipped[str(error)] += 1
        except _UNREADABLE as error:
            self.skipped[f"no {connection.msgtype}: {type(error).__name__}"] += 1
        return RecordedImage(received_ns, None, message)

    def _of(self, topic: str) -> list[Any]:
        images = [c for c in self._reader.connections if c.msgtype in _TO_FRAME]
        names = sorted({connection.topic for connection in images})
        shown = ", ".join(names) or "none"
        if topic and topic not in names:
            kinds = {c.topic: c.msgtype for c in self._reader.connections}
            what = f"holds {kinds[topic]}" if topic in kinds else "is not in the bag"
            raise ValueError(f"the topic {topic} {what}; topics with images: {shown}")
        if not names:
            raise ValueError(f"{self.path} has no topic with images")
        if not topic and len(names) > 1:
            raise ValueError(f"{self.path} has several topics with images: choose one of {shown}")
        return [connection for connection in images if connection.topic == (topic or names[0])]


def _remedy(path: Path, error: BaseException) -> str:
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        files = sorted(f for f in path.iterdir() if f.suffix in (".mcap", ".db3"))
        if files:
            return f"metadata.yaml is missing; give {files[0]} itself, or `ros2 bag reindex`"
        return "it holds neither metadata.yaml nor an .mcap or .db3 file"
    if path.suffix == ".mcap" or any(path.glob("*.mcap")):
        return f"{_words(error)} (if it was cut short: `mcap recover` saves what is in it)"
    return _words(error)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


class EstimatesBag:
    """A ROS 2 bag (MCAP) of `PersonEmotionArray`, and of the images if they are wanted.

    It carries the definitions of its messages: other tools read it without this package. A context
    manager; the folder is whole once it is left.
    """

    def __init__(self, path: Path | str, image_topic: str = "") -> None:
        """
        Args:
            path: a folder that is not there yet.
            image_topic: of the images that `add_image` will be given; empty: none will be.

        Raises:
            ValueError: the folder is there, or cannot be made.
        """
        self._store = typestore()
        try:
            self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise ValueError(f"{path} cannot be written as a bag: {error}") from error
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
        """Write what was said at a time of the recorder's clock."""
        message = people_to_msg(people, _message_types())
        self._writer.write(self._people, time_ns, self._store.serialize_cdr(message, PEOPLE))

    def add_image(self, image: RecordedImage) -> None:
        """Write an image as it was recorded; one that could not be read is left out."""
        if image.message is None:
            return
        kind = image.message.__msgtype__
        if kind not in self._images:
            self._images[kind] = self._writer.add_connection(
                self._image_topic, kind, typestore=self._store, offered_qos_profiles=[_BEST_EFFORT]
            )
        message = _in_ros2(image.message, self._store)
        self._writer.write(
            self._images[kind], image.received_ns, self._store.serialize_cdr(message, kind)
        )


def image_message(frame: Frame) -> Any:
    """A frame as an rgb8 `sensor_msgs/Image`, to be serialised by `typestore()`."""
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


def _in_ros2(message: Any, store: Any) -> Any:
    """The same message with the header of ROS 2: that of ROS 1 has a number more."""
    types, header = _message_types(), message.header
    fields = {
        name: getattr(message, name) for name in message.__dataclass_fields__ if name[0] != "_"
    }
    stamp = types.time(sec=header.stamp.sec, nanosec=header.stamp.nanosec)
    fields["header"] = types.header(stamp=stamp, frame_id=header.frame_id)
    return store.types[message.__msgtype__](**fields)


@cache
def typestore() -> Any:
    """The message types of ROS 2 with this package's own, as rosbags knows them."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name in (PERSON, PEOPLE):
        text = (_MESSAGES / f"{name.rpartition('/')[2]}.msg").read_text()
        types |= get_types_from_msg(text, name)
    store.register(types)
    return store


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
