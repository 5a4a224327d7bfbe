"""Read the raw messages of a bag: ROS 2 (SQLite, MCAP; split, compressed) or ROS 1.

A `RawBag` merges the messages of its files by time of recording. The message definitions, type
hashes and QoS profiles in a bag are not read: the definitions of the image messages are known, and
so no other topic of a bag can prevent reading its images.
"""

from __future__ import annotations

import heapq
import sqlite3
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import zstandard
from mcap.exceptions import InvalidMagic, McapError
from mcap.reader import NonSeekingReader, SeekingReader
from mcap.records import Channel, Schema
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag1 import ReaderError as Rosbag1Error

from emotion_perception.core import documents
from emotion_perception.io import confined

_DAMAGED = (
    *(McapError, Rosbag1Error, zstandard.ZstdError, sqlite3.Error, struct.error),
    *(OSError, EOFError, ValueError, OverflowError, LookupError, AssertionError, RuntimeError),
    *(TypeError, AttributeError, MemoryError),
)
"""What the reading libraries raise for a damaged file. Only their calls are guarded with these.

They do not check each length and name that they parse, so a damaged one ends in a built-in error:
a length that is too large in a MemoryError.
"""


_MAX_MESSAGE = 1 << 30
"""Bytes of a message after decompression."""


class Topic(NamedTuple):
    """A topic of a bag."""

    name: str
    msgtype: str
    """The type as ROS 2 writes it, for example `sensor_msgs/msg/Image`."""
    encoding: str
    """`cdr` (ROS 2), `ros1`, or that of another tool, for example `protobuf`."""


class RawMessage(NamedTuple):
    """A serialized message."""

    received_ns: int
    """Time of recording, on the recorder's clock."""
    topic: Topic
    data: bytes


class RawBag:
    """The serialized messages of a bag. A context manager."""

    def __init__(self, path: Path) -> None:
        """Open a bag.

        Args:
            path: A folder with `metadata.yaml`, or an .mcap, .db3 or .bag file.

        Raises:
            ValueError: No file of the bag can be read.
        """
        self.path = path
        self._unpacked = TemporaryDirectory()
        self._files: list[_File] = []
        self._problems: list[str] = []
        """Why the bag is incomplete."""
        try:
            self._open_files()
        except _DAMAGED as error:
            self.close()
            raise ValueError(f"cannot read {path} as a rosbag: {_reason(path, error)}") from error
        self.topics: Counter[Topic] = Counter()
        """Topic to the number of its messages that the files state."""
        for file in self._files:
            self.topics.update(file.topics)

    def __enter__(self) -> RawBag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files of the bag."""
        for file in self._files:
            file.close()
        self._unpacked.cleanup()

    def span(self, topics: Set[Topic]) -> tuple[int, int] | None:
        """Return the times of the first and of the last message; None if there is no message."""
        return _joined(file.span(topics) for file in self._files)

    def messages(
        self, topics: Set[Topic], start_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[RawMessage]:
        """Yield the messages of the topics from `start_ns` until before `end_ns`, ordered by time.

        A damaged file ends early; the others are read to the end.

        Raises:
            ValueError: After the last message, if a file is damaged, or holds fewer messages than
                it states or than `metadata.yaml` states.
        """
        problems = list(self._problems)
        spans = [(file, file.span(topics)) for file in self._files]
        streams = [
            (span[0], _until_damage(file, topics, start_ns, end_ns, problems))
            for file, span in spans
            if span
        ]
        count = 0
        for message in _merge(streams):
            count += 1
            yield message
        stated = max(
            sum(self.topics[topic] for topic in topics),
            sum(self._stated.get(name, 0) for name in {topic.name for topic in topics}),
        )
        if start_ns is None and end_ns is None and count < stated and not problems:
            problems.append(
                f"{self.path} holds {count} messages on {', '.join({t.name for t in topics})} and "
                f"states {stated}; look for a missing file, or run `ros2 bag reindex`"
            )
        if problems:
            raise ValueError("; ".join(problems))

    def _open_files(self) -> None:
        metadata = _read_metadata(self.path) if self.path.is_dir() else _Metadata([self.path])
        self._stated = metadata.counts
        first: BaseException | None = None
        for path in metadata.paths:
            try:
                file = self._unpack(path) if metadata.compression == "file" else path
                reader = _READERS.get(file.suffix)
                if reader is None:
                    known = ", ".join(_READERS)
                    raise ValueError(
                        f"the format {file.suffix!r} is not one of {known}, or a video"
                    )
                self._files.append(reader(file, path, metadata.compression == "message"))
            except _DAMAGED as error:
                first = first or error
                self._problems.append(f"cannot read {path}: {_reason(path, error)}")
        if first and not self._files:
            raise first

    def _unpack(self, path: Path) -> Path:
        unpacked = Path(self._unpacked.name) / path.stem
        with path.open("rb") as packed, unpacked.open("wb") as file:
            zstandard.ZstdDecompressor().copy_stream(packed, file)
        return unpacked


class _Metadata(NamedTuple):
    """What `metadata.yaml` states."""

    paths: list[Path]
    compression: str = ""
    """`file`, `message` or empty."""
    counts: Mapping[str, int] = {}
    """Name of a topic to the number of its messages."""


def _read_metadata(folder: Path) -> _Metadata:
    content = documents.read_yaml(folder / "metadata.yaml")
    try:
        content = content["rosbag2_bagfile_information"]
        return _Metadata(
            [confined.join(folder, Path(str(n)).name) for n in content["relative_file_paths"]],
            str(content.get("compression_mode", "")).lower(),
            {
                topic["topic_metadata"]["name"]: int(topic["message_count"])
                for topic in content["topics_with_message_count"]
            },
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"metadata.yaml is not that of a bag ({_text(error)})") from error


class _File(ABC):
    """One file of a bag."""

    topics: Counter[Topic]
    """Topic to the number of its messages."""

    def __init__(self, path: Path, name: Path, compressed: bool) -> None:
        """Open a file.

        Args:
            path: of the file.
            name: the path for messages to the user; another one if the file was unpacked.
            compressed: whether each message is compressed with Zstandard.
        """
        self.path, self.name = path, name
        self._compressed = compressed
        self.topics = Counter()

    @abstractmethod
    def span(self, topics: Set[Topic]) -> tuple[int, int] | None:
        """Return the times of the first and of the last message; None if there is no message."""

    @abstractmethod
    def messages(
        self, topics: Set[Topic], start_ns: int | None, end_ns: int | None
    ) -> Iterator[RawMessage]:
        """Yield the messages of the topics, ordered by time."""

    def close(self) -> None:  # noqa: B027 (most files are open only while they are read)
        """Close the file."""

    def _message(self, received_ns: int, topic: Topic, data: bytes) -> RawMessage:
        if self._compressed:
            data = _decompress(data)
        return RawMessage(received_ns, topic, data)


class _Mcap(_File):
    """An .mcap file, read through its chunk index, or without one from beginning to end."""

    def __init__(self, path: Path, name: Path, compressed: bool) -> None:
        super().__init__(path, name, compressed)
        self._limit = path.stat().st_size  # no record is longer than its file
        self._spans: dict[Topic, tuple[int, int]] = {}
        with path.open("rb") as stream:
            summary = SeekingReader(stream, record_size_limit=self._limit).get_summary()
        statistics = summary.statistics if summary else None
        self._indexed = bool(summary and summary.chunk_indexes and summary.channels and statistics)
        if summary and statistics and self._indexed:
            self._whole_span = statistics.message_start_time, statistics.message_end_time
            for number, channel in summary.channels.items():
                topic = _topic_of_channel(channel, summary.schemas.get(channel.schema_id))
                self.topics[topic] += statistics.channel_message_counts.get(number, 0)
        else:
            for message in self._read(None):
                self._count(message)

    def _count(self, message: RawMessage) -> None:
        time_ns, topic = message.received_ns, message.topic
        first, last = self._spans.get(topic, (time_ns, time_ns))
        if time_ns < last:
            raise ValueError(
                "it has no index, and its messages are not ordered by time; write an index with "
                "`mcap recover`"
            )
        self._spans[topic] = first, time_ns
        self.topics[topic] += 1

    def span(self, topics: Set[Topic]) -> tuple[int, int] | None:
        return _joined(self._topic_span(topic) for topic in topics & self.topics.keys())

    def _topic_span(self, topic: Topic) -> tuple[int, int] | None:
        if topic not in self._spans:
            try:
                with closing(self._read({topic})) as messages:
                    first = next(messages, None)
                with closing(self._read({topic}, reverse=True)) as messages:
                    last = next(messages, None)
            except _DAMAGED:
                return self._whole_span
            if first is None or last is None:
                return None
            self._spans[topic] = first.received_ns, last.received_ns
        return self._spans[topic]

    def messages(
        self, topics: Set[Topic], start_ns: int | None, end_ns: int | None
    ) -> Iterator[RawMessage]:
        return self._read(topics, start_ns, end_ns)

    def _read(
        self,
        topics: Set[Topic] | None,
        start_ns: int | None = None,
        end_ns: int | None = None,
        reverse: bool = False,
    ) -> Generator[RawMessage, None, None]:
        kind = SeekingReader if self._indexed else NonSeekingReader
        with self.path.open("rb") as stream:
            reader = kind(stream, validate_crcs=True, record_size_limit=self._limit)
            for schema, channel, message in reader.iter_messages(
                None if topics is None else {topic.name for topic in topics},
                log_time_order=self._indexed,
                reverse=reverse,
                starting_at=start_ns,
                ending_before=end_ns,
            ):
                topic = _topic_of_channel(channel, schema)
                if topics is None or topic in topics:
                    yield self._message(message.log_time, topic, message.data)


def _topic_of_channel(channel: Channel, schema: Schema | None) -> Topic:
    msgtype = schema.name if schema else ""
    if channel.message_encoding == "ros1":
        msgtype = msgtype.replace("/", "/msg/", 1)
    return Topic(channel.topic, msgtype, channel.message_encoding)


class _Sqlite(_File):
    """A .db3 file."""

    def __init__(self, path: Path, name: Path, compressed: bool) -> None:
        super().__init__(path, name, compressed)
        self._ids: dict[Topic, list[int]] = {}
        with closing(self._connect()) as database:
            for number, topic, msgtype, encoding, count in database.execute(
                "SELECT topics.id, name, type, serialization_format, count(messages.id) "
                "FROM topics LEFT JOIN messages ON topics.id = messages.topic_id "
                "GROUP BY topics.id ORDER BY topics.id"
            ):
                key = Topic(str(topic), str(msgtype), str(encoding))
                self._ids.setdefault(key, []).append(number)
                self.topics[key] += count

    def _connect(self) -> sqlite3.Connection:
        """Connect without writing, and with what the recorder left in a log beside the file."""
        logs = [Path(f"{self.path}{suffix}") for suffix in ("-wal", "-journal")]
        logged = any(log.is_file() and log.stat().st_size for log in logs)
        # Without a log, `immutable` also reads from folders that cannot be written.
        query = "mode=ro" if logged else "immutable=1"
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?{query}", uri=True)

    def span(self, topics: Set[Topic]) -> tuple[int, int] | None:
        condition, numbers = self._condition(topics)
        with closing(self._connect()) as database:
            first, last = database.execute(
                f"SELECT min(timestamp), max(timestamp) FROM messages WHERE {condition}", numbers
            ).fetchone()
        return None if first is None else (first, last)

    def messages(
        self, topics: Set[Topic], start_ns: int | None, end_ns: int | None
    ) -> Iterator[RawMessage]:
        condition, numbers = self._condition(topics)
        if start_ns is not None:
            condition, numbers = f"{condition} AND timestamp >= ?", [*numbers, start_ns]
        if end_ns is not None:
            condition, numbers = f"{condition} AND timestamp < ?", [*numbers, end_ns]
        by_id = {number: topic for topic in topics for number in self._ids.get(topic, ())}
        with closing(self._connect()) as database:
            for number, time_ns, data in database.execute(
                f"SELECT topic_id, timestamp, data FROM messages WHERE {condition} "
                "ORDER BY timestamp, id",
                numbers,
            ):
                if not isinstance(data, bytes):
                    raise ValueError(f"the message at {time_ns} ns holds no bytes")
                yield self._message(time_ns, by_id[number], data)

    def _condition(self, topics: Set[Topic]) -> tuple[str, list[int]]:
        numbers = [number for topic in topics for number in self._ids.get(topic, ())]
        return f"topic_id IN ({', '.join('?' * len(numbers))})", numbers


class _Rosbag1(_File):
    """A .bag file of ROS 1."""

    def __init__(self, path: Path, name: Path, compressed: bool) -> None:
        super().__init__(path, name, compressed)
        self._reader = Rosbag1Reader(path)
        self._reader.open()
        self._topics = {c.id: Topic(c.topic, c.msgtype, "ros1") for c in self._reader.connections}
        for connection in self._reader.connections:
            self.topics[self._topics[connection.id]] += connection.msgcount

    def _connections(self, topics: Set[Topic]) -> list[Connection]:
        return [c for c in self._reader.connections if self._topics[c.id] in topics]

    def span(self, topics: Set[Topic]) -> tuple[int, int] | None:
        indexes = [self._reader.indexes[c.id] for c in self._connections(topics)]
        return _joined([(index[0].time, index[-1].time) for index in indexes if index])

    def messages(
        self, topics: Set[Topic], start_ns: int | None, end_ns: int | None
    ) -> Iterator[RawMessage]:
        if connections := self._connections(topics):
            for connection, time_ns, data in self._reader.messages(connections, start_ns, end_ns):
                yield RawMessage(time_ns, self._topics[connection.id], data)

    def close(self) -> None:
        self._reader.close()


def _decompress(data: bytes) -> bytes:
    """Return a decompressed message.

    Raises:
        ValueError: it is larger than any image.
    """
    with zstandard.ZstdDecompressor().stream_reader(data) as stream:
        message = stream.read(_MAX_MESSAGE + 1)
    if len(message) > _MAX_MESSAGE:
        raise ValueError(f"a message has more than {_MAX_MESSAGE:,} bytes")
    return message


_READERS: dict[str, type[_File]] = {".mcap": _Mcap, ".db3": _Sqlite, ".bag": _Rosbag1}


def _joined(spans: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Return the span from the first start to the last end; None without a span."""
    known = [span for span in spans if span is not None]
    return (min(first for first, _ in known), max(last for _, last in known)) if known else None


def _until_damage(
    file: _File,
    topics: Set[Topic],
    start_ns: int | None,
    end_ns: int | None,
    problems: list[str],
) -> Iterator[RawMessage]:
    """Yield the messages of a file; add the problem if it ends early."""
    try:
        yield from file.messages(topics, start_ns, end_ns)
    except _DAMAGED as error:
        problems.append(f"cannot read {file.name} any further: it is damaged here ({_text(error)})")


def _merge(streams: Sequence[tuple[int, Iterator[RawMessage]]]) -> Iterator[RawMessage]:
    """Merge streams by time. A stream is started at the time of its first message, not before."""
    waiting: list[tuple[int, int, RawMessage | None]] = [
        (first_ns, number, None) for number, (first_ns, _) in enumerate(streams)
    ]
    heapq.heapify(waiting)
    while waiting:
        _, number, message = heapq.heappop(waiting)
        if message is not None:
            yield message
        following = next(streams[number][1], None)
        if following is not None:
            heapq.heappush(waiting, (following.received_ns, number, following))


def _reason(path: Path, error: BaseException) -> str:
    """Return why a bag or a file cannot be read, with the remedy where there is one."""
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        files = sorted(f for f in path.iterdir() if f.suffix in _READERS)
        if files:
            return f"metadata.yaml is missing; give {files[0]} itself, or run `ros2 bag reindex`"
        return "the folder has neither metadata.yaml nor an .mcap or .db3 file"
    if path.is_file() and not path.stat().st_size:
        return "the file is empty; copy or record it again"
    if path.suffix == ".mcap":
        return f"{_text(error)}; if the file is truncated, recover it with `mcap recover`"
    return _text(error)


def _text(error: BaseException) -> str:
    if isinstance(error, InvalidMagic):
        return "it does not begin and end as an MCAP file does"
    if isinstance(error, MemoryError):
        return "it states a length that does not fit into the memory"
    text = " ".join(str(error).split()) or type(error).__name__
    if type(error) in (TypeError, AttributeError, KeyError, IndexError, AssertionError):
        return f"it is damaged ({text})"
    return text
