"""Frames from recorded bags: ROS 2 (sqlite3, MCAP; plain or compressed) and ROS 1."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from emotion_perception.frames import FrameError, frame_from_compressed, frame_from_image
from emotion_perception.values import Frame

_TO_FRAME: dict[str, Any] = {
    "sensor_msgs/msg/Image": frame_from_image,
    "sensor_msgs/msg/CompressedImage": frame_from_compressed,
}


class Bag:
    """The images of one topic of a bag. A context manager, since files stay open meanwhile."""

    def __init__(self, path: Path | str, topic: str = "") -> None:
        """
        Args:
            path: of a ROS 2 bag (a folder, or its .mcap or .db3 file) or a ROS 1 .bag file.
            topic: of images; empty: the only one that there is.

        Raises:
            ValueError: there is no such bag, it is damaged, or has no such topic.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise ValueError(f"{path} does not exist: expected a bag")
        if self.path.suffix in (".mcap", ".db3"):
            self.path = self.path.parent  # the reader wants the folder with its metadata
        self.skipped: Counter[str] = Counter()
        """Messages that are no pictures: the reason to their number."""
        try:
            self._reader = AnyReader(
                [self.path], default_typestore=get_typestore(Stores.ROS2_JAZZY)
            )
            self._reader.open()
        except (AnyReaderError, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no bag that can be read: {error}") from error
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

    def frames(self, start: float = 0.0, duration: float | None = None) -> Iterator[Frame | None]:
        """Every picture in the order of the recording; None for a message that is none.

        Args:
            start: seconds after the beginning of the bag.
            duration: seconds from there; None: to the end.

        Raises:
            ValueError: the bag ends in the middle of something; all before was given.
        """
        first = self.start_ns + round(start * 1e9)
        last = None if duration is None else first + round(duration * 1e9)
        try:
            for connection, _, raw in self._reader.messages(self._connections, first, last):
                yield self._frame(connection, raw)
        except (AnyReaderError, OSError, KeyError) as error:
            raise ValueError(f"{self.path} is damaged from here on: {error}") from error

    def _frame(self, connection: Any, raw: bytes) -> Frame | None:
        try:
            message = self._reader.deserialize(raw, connection.msgtype)
            frame: Frame = _TO_FRAME[connection.msgtype](message)
            return frame
        except FrameError as error:
            self.skipped[str(error)] += 1
        except (
            *(AnyReaderError, SerdeError, struct.error),
            *(ValueError, IndexError, TypeError, AssertionError, KeyError),
        ) as error:
            # What rosbags raises for bytes that are not the message they claim to be.
            self.skipped[f"no {connection.msgtype}: {type(error).__name__}"] += 1
        return None

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
