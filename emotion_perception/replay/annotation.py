"""Make a table of the tracks in a bag, for people to fill in with ground truth."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import Box, Detections, Frame
from emotion_perception.evaluation.tracking_metrics import iou
from emotion_perception.io import atomic, run_folder
from emotion_perception.io.bags import RecordedImage
from emotion_perception.io.run_folder import RunFolder, fingerprint_files
from emotion_perception.perception.privacy import FaceBlur
from emotion_perception.perception.stamps import StampOrder, stamp_warnings
from emotion_perception.perception.tracking import Tracker
from emotion_perception.replay import ground_truth
from emotion_perception.replay.journal import Journal, JournaledDetector
from emotion_perception.replay.options import AnnotationOptions, Recording

MANIFEST, DETECTIONS = "annotation.json", "detections.jsonl"
"""Files beside the thumbnails from which an interrupted annotation resumes."""

_MIN_OVERLAP = 0.7  # of a box with the first of its row; a person who moves further gets a new row
_MAX_GAP_S = 1.0  # out of view; after a longer gap a person gets a new row
_THUMBNAIL_HEIGHT = 160  # pixels


@dataclass(slots=True)
class Row:
    """A person who stays in one place."""

    person_id: str
    start: float
    """Seconds after the first image."""
    end: float
    boxes: list[Box]
    thumbnail: bytes
    """A JPEG."""

    @property
    def box(self) -> Box:
        """The median of the boxes."""
        return Box(*np.median(np.array(self.boxes), axis=0).tolist())

    def cells(self, thumbnail: str) -> dict[str, Any]:
        """Return the cells of the row; start and end are rounded so that its images are inside."""
        box = dict(zip(("left", "top", "right", "bottom"), self.box, strict=True))
        return {
            "person": self.person_id,
            "start": f"{math.floor(self.start * 1e3) / 1e3:.3f}",
            "end": f"{math.ceil(self.end * 1e3) / 1e3:.3f}",
            **{name: f"{value:.0f}" for name, value in box.items()},
            "thumbnail": thumbnail,
        }


@atomic.private()
def annotate(
    options: AnnotationOptions,
    log: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Track the people of a bag, and write a row for each place where a person stays, or resume.

    Args:
        options: Which images, and where to write.
        log: Called with each line for the user.
        progress: Called after each image: images done, approximate number of images.

    Returns:
        Whether the whole bag could be read.

    Raises:
        ValueError: An option is not allowed, the table exists, or no person is detected.
        ModelError: The detector cannot be loaded.
        OSError: A file cannot be written.
    """
    path, folder = options.table, options.table.with_suffix("")
    _check_table(path)
    with run_folder.hold(folder, MANIFEST), options.bag.open() as bag:
        try:
            collector, error = _detect(options, bag, folder, progress)
        except KeyboardInterrupt:
            log(
                f"interrupted; {folder} keeps what was detected: start the same command again to "
                "resume"
            )
            raise
        stamps = stamp_warnings(collector.skipped, collector.clock_jumps)
        warnings = [*stamps, *bag.skip_warnings()]
        rows = sorted(collector.rows, key=lambda row: (row.person_id, row.start))
        if not rows:
            reasons = "; ".join(["no person is detected", *filter(None, [error]), *warnings])
            raise ValueError(f"cannot annotate {options.bag.path}: {reasons}")
        names = [f"{row.person_id}_{row.start:07.2f}.jpg" for row in rows]
        thumbnails = {folder / n: row.thumbnail for n, row in zip(names, rows, strict=True)}
        cells = [row.cells(f"{folder.name}/{n}") for n, row in zip(names, rows, strict=True)]
        _check_table(path)
        atomic.write_files({**thumbnails, path: ground_truth.to_csv(cells)})
    people = len({row.person_id for row in rows})
    log(f"{len(rows)} rows about {people} people written to {path}")
    log(f"their thumbnails are in {folder}")
    for line in (*_next_steps(options, path), *(f"Warning: {warning}" for warning in warnings)):
        log(line)
    if error:
        log(f"{error}; the table holds what came before")
    return not error


def _check_table(path: Path) -> None:
    """Check that the table can be written and replaces none.

    Raises:
        ValueError: It exists.
        OSError: It cannot be written.
    """
    if path.exists():
        raise ValueError(
            f"cannot write {path}: it exists already, perhaps filled in; choose another --out"
        )
    atomic.check_writable(path)


def _detect(
    options: AnnotationOptions, bag: Recording, folder: Path, progress: Callable[[int, int], None]
) -> tuple[_RowCollector, str]:
    """Detect and track the people of a bag; return them, and why the bag ended early.

    Detections are stored in the folder as they come, and read from there when it is resumed.
    """
    from emotion_perception.perception.detection import make_detector

    settings, error = options.bag.settings(), ""
    total = options.bag.expected_images(bag)
    with ExitStack() as stack:
        model = getattr(settings.detector, "model", "")
        manifest = {
            "bag": options.bag.name,
            "topic": bag.topic,
            "data": bag.fingerprint(),
            "part": options.bag.part(),
            "weights": fingerprint_files([Path(model).expanduser()] if model else []),
            "settings": {
                k: v
                for k, v in settings.to_dict().items()
                if k.startswith(("detector.", "privacy."))
            },
        }
        stack.enter_context(RunFolder.claim(folder, manifest, name=MANIFEST))
        journal = stack.enter_context(Journal(folder / DETECTIONS))
        detector = JournaledDetector(make_detector(settings.detector), journal)
        stack.callback(detector.close)
        tracker = Tracker(settings.tracker, settings.detector.confidence)
        collector = _RowCollector(tracker, bag.start_ns, FaceBlur(settings))
        images = enumerate(options.bag.images(bag), 1)
        while True:
            try:
                done, image = next(images, (0, None))
            except ValueError as damage:
                error = str(damage)
                break
            if image is None:
                break
            if image.frame is not None and collector.accepts(image.frame):
                collector.add(image, image.frame, detector.detect(image.frame))
            progress(done, max(total, done))
    return collector, error


class _RowCollector:
    """Collect tracks as rows; a row ends where the person moves away or leaves."""

    def __init__(self, tracker: Tracker, start_ns: int, blur: FaceBlur) -> None:
        self._tracker, self._start_ns, self._blur = tracker, start_ns, blur
        self._stamps = StampOrder()
        self.skipped: Counter[str] = Counter()
        """Reason to the number of images that were skipped for their stamps."""
        self.clock_jumps = 0
        self._open: dict[str, Row] = {}
        self.rows: list[Row] = []

    def accepts(self, frame: Frame) -> bool:
        """Return whether a frame is to be used; count it if not."""
        reason = self._stamps.why_skipped(frame.stamp_ns)
        self.skipped.update([reason] if reason else [])
        return not reason

    def add(self, image: RecordedImage, frame: Frame, detections: Detections) -> None:
        """Add the people of an image that was accepted."""
        if self._stamps.add(frame.stamp_ns):
            self.clock_jumps += 1
            self._tracker.reset()
        seconds = (image.received_ns - self._start_ns) / 1e9
        for track in self._tracker.update(detections, frame.stamp_ns, frame.image):
            box = track.box.clipped(frame.width, frame.height)
            row = self._open.get(track.person_id)
            if row is None or (
                seconds - row.end > _MAX_GAP_S or iou(box, row.boxes[0]) < _MIN_OVERLAP
            ):
                thumbnail = _thumbnail(self._blur.frame(frame, [track.box]), box)
                row = Row(track.person_id, seconds, seconds, [], thumbnail)
                self._open[track.person_id] = row
                self.rows.append(row)
            row.end = seconds
            row.boxes.append(box)


def _thumbnail(frame: Frame, box: Box) -> bytes:
    if box.area <= 0:
        return b""
    crop = frame.image[box.pixels(frame.width, frame.height)]
    width = max(round(crop.shape[1] * _THUMBNAIL_HEIGHT / crop.shape[0]), 1)
    small = cv2.resize(crop, (width, _THUMBNAIL_HEIGHT), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR))[1].tobytes()


def _next_steps(options: AnnotationOptions, table: Path) -> Iterator[str]:
    """Yield what the user does with the table."""
    yield (
        "fill in the column labels (separated by semicolons; an empty cell repeats the previous "
        f"row of the person, - means unknown): {', '.join(EMOTIC_LABELS)}; then run"
    )
    arguments = [*_bag_arguments(options), "--labels", f"{table}"]
    yield shlex.join(["emotion-perception", "replay", *arguments])


def _bag_arguments(options: AnnotationOptions) -> list[str]:
    """Return the bag and its options as arguments of a command."""
    bag = options.bag
    words = [str(bag.path)]
    if bag.topic:
        words += ["--topic", bag.topic]
    if bag.params_file:
        words += ["--params-file", str(bag.params_file)]
    for name, value in bag.parameters.items():
        text = value if isinstance(value, str) else str(value).lower()
        words += ["-p", f"{name}:={text}"]
    return words
