"""A table to fill in with what is true during a bag: who is there, from when to when."""

from __future__ import annotations

import argparse
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.progress import track

from emotion_perception.cli.options import plain_console
from emotion_perception.cli.replay import add_bag_arguments, check_bag_arguments, read_settings, say
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import Box, Frame
from emotion_perception.evaluation.tracking_metrics import iou
from emotion_perception.io.bags import Bag, RecordedImage
from emotion_perception.perception.tracking import Tracker
from emotion_perception.replay import ground_truth

_SAME_PLACE = 0.7  # overlap of a box with the row's: who moves further begins another row
_GAP = 1.0  # seconds out of view, after which another row begins
_THUMBNAIL = 160  # px, the height


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_bag_arguments(parser)
    parser.add_argument(
        "--out", type=Path, help="a CSV file; default: beside the bag, NAME.labels.csv"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    check_bag_arguments(arguments)
    settings = read_settings(arguments)
    path = arguments.out or arguments.bag.with_name(f"{arguments.bag.stem}.labels.csv")
    if path.exists():
        raise ValueError(f"{path} is there already, perhaps filled in: choose another --out")
    from emotion_perception.perception.detection import make_detector

    console = plain_console(stderr=True)
    pictures = path.with_suffix("")
    damaged = ""
    with Bag(arguments.bag, arguments.topic) as bag:
        detector = make_detector(settings.detector)
        followed = _Followed(bag.start_ns)
        tracker = Tracker(settings.tracker, settings.detector.confidence)
        images = bag.images(arguments.start, arguments.duration, arguments.every)
        total = len(bag) // arguments.every
        try:
            for image in track(images, "images", total=total, console=console):
                if image.frame is not None:
                    followed.add(image, tracker, detector.detect(image.frame))
        except ValueError as error:
            damaged = str(error)
        detector.close()
    rows = sorted(followed.rows, key=lambda row: (row.person, row.start))
    if not rows:
        raise ValueError(
            f"cannot annotate {arguments.bag}: no person is detected{damaged and ': ' + damaged}"
        )
    pictures.mkdir(parents=True, exist_ok=True)
    count = ground_truth.write(path, _cells(rows, pictures))
    people = len({row.person for row in rows})
    say(console, f"{count} rows about {people} people written to {path}")
    say(console, f"pictures of them are in {pictures}")
    again = ["emotion-perception", "replay", *_given(arguments), "--labels", str(path)]
    say(
        console,
        "Fill in the column labels (separated by semicolons; an empty cell repeats the person's "
        f"row before, - means unknown): {', '.join(EMOTIC_LABELS)}. Then: "
        f"{shlex.join(again)}",
    )
    if damaged:
        say(console, f"{damaged}; what came before is in the table")
    return 1 if damaged else 0


def _given(arguments: argparse.Namespace) -> list[str]:
    """The bag and its options, to be given again."""
    words = [str(arguments.bag)]
    for name in ("topic", "params_file"):
        if value := getattr(arguments, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    for parameter in arguments.parameter:
        words += ["-p", parameter]
    return words


@dataclass(slots=True)
class _Row:
    """A person in one place for a time."""

    person: str
    start: float
    end: float
    boxes: list[Box]
    thumbnail: bytes

    @property
    def box(self) -> Box:
        """The middle of the boxes."""
        return Box(*np.median(np.array(self.boxes), axis=0).tolist())


class _Followed:
    """Collect tracks as rows; a row ends where the person moves away."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._newest_ns: int | None = None
        self._open: dict[str, _Row] = {}
        self.rows: list[_Row] = []

    def add(self, image: RecordedImage, tracker: Tracker, boxes: Any) -> None:
        frame = image.frame
        assert frame is not None
        if self._newest_ns is not None and frame.stamp_ns <= self._newest_ns:
            if frame.stamp_ns == self._newest_ns:
                return
            tracker.reset()
        self._newest_ns = frame.stamp_ns
        seconds = (image.received_ns - self._start_ns) / 1e9
        for person in tracker.update(boxes, frame.stamp_ns):
            box = person.box.clipped(frame.width, frame.height)
            row = self._open.get(person.person_id)
            moved = row is not None and (
                seconds - row.end > _GAP or iou(box, row.boxes[0]) < _SAME_PLACE
            )
            if row is None or moved:
                row = _Row(person.person_id, seconds, seconds, [], _thumbnail(frame, box))
                self._open[person.person_id] = row
                self.rows.append(row)
            row.end = seconds
            row.boxes.append(box)


def _thumbnail(frame: Frame, box: Box) -> bytes:
    if box.area <= 0:
        return b""
    cut = frame.image[box.pixels(frame.width, frame.height)]
    size = (max(round(cut.shape[1] * _THUMBNAIL / cut.shape[0]), 1), _THUMBNAIL)
    bgr = cv2.cvtColor(cv2.resize(cut, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr)[1].tobytes()


def _cells(rows: list[_Row], pictures: Path) -> Iterator[dict[str, Any]]:
    for row in rows:
        picture = pictures / f"{row.person}_{row.start:07.2f}.jpg"
        picture.write_bytes(row.thumbnail)
        box = dict(zip(("left", "top", "right", "bottom"), row.box, strict=True))
        yield {
            "person": row.person,
            # Outwards, so that the first and the last image are inside.
            "start": f"{math.floor(row.start * 1e3) / 1e3:.3f}",
            "end": f"{math.ceil(row.end * 1e3) / 1e3:.3f}",
            **{name: f"{value:.0f}" for name, value in box.items()},
            "thumbnail": f"{pictures.name}/{picture.name}",
        }
