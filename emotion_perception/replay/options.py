"""The options of replays and annotations, checked before expensive work starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.schema import Value
from emotion_perception.core.settings import Settings
from emotion_perception.io.bags import Bag, RecordedImage
from emotion_perception.io.video import VIDEO_SUFFIXES
from emotion_perception.io.video_recording import VideoRecording

Recording = Bag | VideoRecording

_FILE_SUFFIXES = (".bag", ".mcap", ".db3", *VIDEO_SUFFIXES)
_MAX_SECONDS = 1e8  # three years; larger numbers overflow nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOptions:
    """Which images of a bag or a video are used, and the settings of the node.

    Raises:
        ValueError: A value is not allowed.
    """

    path: Path
    topic: str = ""
    """The image topic; empty: the only one of the bag, or that of a video."""
    every: int = 1
    """Decode only every n-th image."""
    start: float = 0.0
    """Seconds after the first image."""
    duration: float | None = None
    """Seconds after `start`; None: to the end."""
    params_file: Path | None = None
    """A parameter file of the node."""
    node: str = ""
    """The full name of the node in the parameter file; empty: the only one, or /emotion_node."""
    parameters: Mapping[str, Value] = field(default_factory=dict)
    """Parameters of the node; they override those of the file."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.every < 1:
            raise ValueError(
                f"cannot use --every {self.every}: choose 1 for every image, 2 for every second one"
            )
        if not 0 <= self.start < _MAX_SECONDS:
            raise ValueError(
                f"cannot use --start {self.start}: choose 0 s, the first image, or later"
            )
        if self.duration is not None and not 0 < self.duration < _MAX_SECONDS:
            raise ValueError(f"cannot use --duration {self.duration}: choose more than 0 s")

    @property
    def name(self) -> str:
        """The name of the bag without the suffix of a file; names of folders may have dots."""
        path = self.path.resolve()
        is_file = path.suffix.lower() in _FILE_SUFFIXES and not path.is_dir()
        return path.stem if is_file else path.name

    def open(self) -> Recording:
        """Open the bag or the video.

        Raises:
            ValueError: The file cannot be read or does not have the topic, or a parameter is not
                allowed.
            OSError: The parameter file cannot be read.
        """
        settings = self.settings()
        if self.path.suffix.lower() in VIDEO_SUFFIXES and not self.path.is_dir():
            return VideoRecording(self.path, self.topic, settings.max_pixels)
        return Bag(self.path, self.topic, settings.max_pixels, settings.image_encoding)

    def settings(self) -> Settings:
        """Return the settings of the node.

        Raises:
            ValueError: A parameter does not exist or has a value that is not allowed.
            OSError: The parameter file cannot be read.
        """
        values = read_parameter_file(self.params_file, self.node) if self.params_file else {}
        return Settings.from_dict({**values, **self.parameters})

    def images(self, bag: Recording) -> Iterator[RecordedImage]:
        """Yield the images.

        Raises:
            ValueError: The bag is damaged.
        """
        return bag.images(self.start, self.duration, self.every)

    def part(self) -> dict[str, float | None]:
        """Return the selected part of the bag, ready for JSON."""
        return {"start": self.start, "duration": self.duration, "every": self.every}

    def interval(self, bag: Recording) -> tuple[int, int]:
        """Return the first and the last time, in nanoseconds of the recorder's clock."""
        start_ns = bag.start_ns + round(self.start * 1e9)
        if self.duration is None:
            return start_ns, bag.end_ns
        return start_ns, min(bag.end_ns, start_ns + round(self.duration * 1e9))

    def expected_images(self, bag: Recording) -> int:
        """Return the approximate number of images."""
        start_ns, end_ns = self.interval(bag)
        share = max(end_ns - start_ns, 0) / max(bag.end_ns - bag.start_ns, 1)
        return round(share * len(bag) / self.every)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """How a bag is played into a running node.

    Raises:
        ValueError: A value is not allowed.
    """

    node: str = "/emotion_node"
    topic: str = ""
    """The image topic of the node; empty: that of the bag."""
    lockstep: bool = False
    """Wait for all answers to each image."""
    rate: float | None = None
    """Speed relative to the recording; None: 1."""
    patience: float = 60.0
    """Seconds to wait for the node, and for each of its replies."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.rate is not None and not 0 < self.rate <= 100:
            raise ValueError(
                f"cannot use --rate {self.rate}: choose a factor above 0, such as 0.5 or 2"
            )
        if self.lockstep and self.rate is not None:
            raise ValueError(
                f"cannot use --rate {self.rate} with --lockstep, which is as fast as the node "
                "answers; remove --rate"
            )
        if not (0 < self.patience < _MAX_SECONDS and math.isfinite(self.patience)):
            raise ValueError(f"cannot use --patience {self.patience}: choose seconds above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """The options of `emotion-perception replay`.

    Raises:
        ValueError: Two values contradict each other.
    """

    bag: BagOptions
    latency: str = "0"
    """Seconds per round, or the latency.json of another machine."""
    labels: Path | None = None
    """The ground truth, see `ground_truth`."""
    images: bool = False
    """Write the images into the bag of estimates."""
    live: LiveOptions | None = None
    """Play into a running node; None: simulate the node."""
    out: Path | None = None
    """The run folder; default: one in out/replay with the name of the bag."""
    command: str = ""
    """The command line, for the report."""

    def __post_init__(self) -> None:
        """Check the values."""
        if self.live is None:
            return
        if self.labels or self.bag.params_file or self.bag.parameters:
            raise ValueError(
                "cannot use --labels, --params-file or -p with --live: the node has its own "
                "settings, and --labels needs a replay without --live; remove them"
            )
        if self.latency != "0":
            raise ValueError(
                f"cannot use --latency {self.latency} with --live: only simulated time has a "
                "latency; remove it"
            )

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out or Path("out/replay") / self.bag.name


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationOptions:
    """The options of `emotion-perception annotate`."""

    bag: BagOptions
    out: Path | None = None
    """The table, or its folder; default: NAME.labels.csv beside the bag."""

    @property
    def table(self) -> Path:
        """The table to write, which ends in .csv."""
        name = f"{self.bag.name}.labels.csv"
        if self.out is None:
            return self.bag.path.resolve().with_name(name)
        if self.out.suffix.lower() == ".csv":
            return self.out
        table = self.out.resolve().with_name(f"{self.out.resolve().name}.csv")
        # Beside a table, the folder of the same name holds its thumbnails.
        return self.out / name if self.out.is_dir() and not table.exists() else table
