"""Write the messages of a replay as JSON lines, as a bag and as a table."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from emotion_perception.io import atomic
from emotion_perception.io.bags import EstimatesBag, RecordedImage, image_message
from emotion_perception.io.json_codec import people_to_json
from emotion_perception.perception.privacy import FaceBlur
from emotion_perception.replay.simulator import Emission

LINES, BAG, TABLE = "emotions.jsonl", "bag", "emotions.parquet"

_PERSON: dict[str, Any] = {
    "person_id": pl.String,
    "box": pl.List(pl.Float64),
    "detection_confidence": pl.Float64,
    "position": pl.List(pl.Float64),
    "status": pl.String,
    "reason": pl.String,
    "assessed_ns": pl.Int64,
    "label": pl.String,
    "confidence": pl.Float64,
    "active": pl.List(pl.String),
    "scores": pl.List(pl.Float64),
    "raw_scores": pl.List(pl.Float64),
    "valence": pl.Float64,
    "arousal": pl.Float64,
    "dominance": pl.Float64,
    "rationale": pl.String,
}
_SCHEMA: dict[str, Any] = {
    "time_ns": pl.Int64,
    "stamp_ns": pl.Int64,
    "frame_id": pl.String,
    "image_width": pl.Int64,
    "image_height": pl.Int64,
    "model": pl.String,
    "calibration": pl.String,
    "labels": pl.List(pl.String),
    "thresholds": pl.List(pl.Float64),
    "run_id": pl.String,
    "sequence": pl.Int64,
    "source_status": pl.String,
    "cause": pl.String,
    "people": pl.List(pl.Struct(_PERSON)),
}


class Outputs:
    """Files that get their final names when they are complete. A context manager."""

    def __init__(self, folder: Path, image_topic: str = "") -> None:
        """Create the files under temporary names.

        Args:
            folder: An existing folder.
            image_topic: Topic of the images in the bag; empty: no images.

        Raises:
            ValueError: The bag cannot be written.
            OSError: Another file cannot be written.
        """
        self._folder, self._part = folder, folder / "partial"
        self._with_images = bool(image_topic)
        shutil.rmtree(self._part, ignore_errors=True)
        try:
            with atomic.naming(self._folder / LINES):
                self._part.mkdir()
                self._lines = (self._part / LINES).open("w")
            self._bag = EstimatesBag(self._part / BAG, image_topic)
        except BaseException:
            shutil.rmtree(self._part, ignore_errors=True)
            raise

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with atomic.naming(self._folder / BAG):
                self._bag.__exit__(kind, error, trace)
            with atomic.naming(self._folder / LINES):
                self._lines.close()
            if kind is None:
                with atomic.naming(self._folder / TABLE):
                    _to_parquet(self._part / LINES, self._part / TABLE)
                for name in (LINES, BAG, TABLE):
                    with atomic.naming(self._folder / name):
                        atomic.replace(self._part / name, self._folder / name)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def add_image(self, image: RecordedImage) -> None:
        """Add an image as it was recorded to the bag."""
        if self._with_images:
            with atomic.naming(self._folder / BAG):
                self._bag.add_image(image)

    def add_frame(self, emission: Emission, blur: FaceBlur) -> None:
        """Add the frame of a message to the bag, as it may be shown."""
        if self._with_images:
            frame = blur.frame(emission.frame, [e.track.box for e in emission.people.people])
            image = RecordedImage(emission.time_ns, frame, image_message(frame))
            with atomic.naming(self._folder / BAG):
                self._bag.add_image(image)

    def add(self, emission: Emission) -> None:
        """Add a message."""
        line = {"time_ns": emission.time_ns, **people_to_json(emission.people)}
        with atomic.naming(self._folder / LINES):
            self._lines.write(json.dumps(line) + "\n")
        with atomic.naming(self._folder / BAG):
            self._bag.add(emission.people, emission.time_ns)


def _to_parquet(lines: Path, path: Path) -> None:
    """Write a row per person and message, streaming: an hour of them may not fit into memory.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        (
            pl.scan_ndjson(lines, schema=_SCHEMA)
            .explode("people")
            .filter(pl.col("people").is_not_null())
            .unnest("people")
            .sink_parquet(path)
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise OSError(errno.EIO, str(error)) from error
