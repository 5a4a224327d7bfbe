"""The small world as files: a data set in EMOTIC's format, videos, bags."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC_LABELS, vad_from_emotic
from emotion_perception.core.values import Frame, ImageArray
from emotion_perception.evaluation.datasets.emotic import person_mask_path
from emotion_perception.io import atomic
from emotion_perception.io.video import VIDEO_SUFFIXES
from emotion_perception.toy_world.models import FIRST_TRAINING_SEED
from emotion_perception.toy_world.rules import BoolArray, DrawnImage, Person
from emotion_perception.toy_world.stills import SIZE, Size, check, draw_images, in_turn

_FOLDERS = ("ade20k", "emodb_small", "framesdb", "mscoco")
_SPLITS = ("train", "val", "test")


_FIRST_DATA_SEED = 100
MAX_DATA_SEED = (FIRST_TRAINING_SEED - _FIRST_DATA_SEED) // 3 - 1
"""The largest seed of `write_data`, which draws three worlds per seed."""


@dataclass(frozen=True, slots=True)
class DataOptions:
    """A data set for `write_data`."""

    folder: Path
    images: tuple[int, int, int] = (2000, 400, 500)
    """Images of the train, val and test split."""
    seed: int = 0
    part: str = "seen"
    """Combinations in the test split."""
    train_part: str = "seen"
    """Combinations in the train and val splits."""


def write_data(options: DataOptions) -> None:
    """Write images and ground truth of three splits in EMOTIC's format.

    Raises:
        ValueError: the seed is not allowed, or the folder is not empty.
        OSError: a file cannot be written.
    """
    if not 0 <= options.seed <= MAX_DATA_SEED:
        raise ValueError(
            f"cannot draw --seed {options.seed}: choose 0 to {MAX_DATA_SEED}, since the small "
            "models were trained on the worlds after those"
        )
    first = _FIRST_DATA_SEED + 3 * options.seed
    names = ("train", "val", "test")
    splits = {n: (first + i, options.images[i]) for i, n in enumerate(names)}
    atomic.refuse_existing(options.folder)
    atomic.make_folder(options.folder)
    part = {"train": options.train_part, "val": options.train_part, "test": options.part}
    write_emotic(options.folder, splits, part=part)


def write_emotic(
    root: Path | str,
    splits: Mapping[str, tuple[int, int]],
    *,
    size: Size | Sequence[Size] = SIZE,
    people: tuple[int, int] = (1, 3),
    part: str | Mapping[str, str] = "all",
) -> None:
    """Write a data set that `evaluation.emotic` reads, in EMOTIC's own format.

    Beside it go masks of the people, which EMOTIC does not have, and the tables of its public
    conversion, which say the same as the annotations.

    Args:
        root: a folder; it is made, and annotations in it are replaced.
        splits: "train", "val" or "test" to the seed and the number of its pictures.
        size: of the pictures, width and height, or several in turn.
        people: the fewest and the most in a picture.
        part: of the world, one for all splits or one for each.

    Raises:
        ValueError: as `scene`; or there is no such split, or a split without a picture or part.
    """
    from scipy.io import savemat

    parts = dict.fromkeys(splits, part) if isinstance(part, str) else part
    for split, (seed, n) in splits.items():
        if split not in _SPLITS:
            raise ValueError(f"there is no split {split!r}: choose one of {', '.join(_SPLITS)}")
        if n < 1:
            raise ValueError(f"the split {split} has {n} pictures: at least 1 is needed")
        if split not in parts:
            raise ValueError(f"part names none for the split {split}: give one for each")
        for one in in_turn(size):
            check(seed, parts[split], one, people)
    root = Path(root)
    content = {}
    for split, (seed, n) in splits.items():
        records, rows = [], [_PUBLIC]
        for i, picture in enumerate(draw_images(seed, n, parts[split], size=size, people=people)):
            height, width = picture.image.shape[:2]
            folder, name = f"{_FOLDERS[i % 4]}/images", f"{split}_{i:06d}.jpg"
            _write_jpeg(root / "emotic" / folder / name, picture.image)
            for number, mask in enumerate(picture.masks):
                _write_mask(person_mask_path(root / "emotic" / folder / name, number), mask)
            records.append(_struct(
                filename=np.array([name]),
                folder=np.array([folder]),
                image_size=_struct(n_col=float(width), n_row=float(height)),
                original_database=_struct(name="drawn"),
                person=np.concatenate([_record(p, split) for p in picture.people], axis=1),
            ))  # fmt: skip
            rows += [
                (folder, name, [width, height], list(p.box), _named(p), p.vad.tolist())
                for p in picture.people
            ]
        atomic.write_files({root / f"{split}.csv": _table(rows)})
        content[split] = np.concatenate(records, axis=1)
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    savemat(root / "Annotations" / "Annotations.mat", content)


_PUBLIC: tuple[Any, ...] = (
    "Folder", "Filename", "Image Size", "BBox", "Categorical_Labels", "Continuous_Labels",
)  # fmt: skip


def _named(person: Person) -> list[str]:
    return [EMOTIC_LABELS[k] for k in np.flatnonzero(person.labels)]


def _table(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _write_jpeg(path: Path, image: ImageArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    path.write_bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())


def _write_mask(path: Path, mask: BoolArray) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())


def _record(person: Person, split: str) -> npt.NDArray[Any]:
    """One annotator in the training part, three who agree in the others."""
    names = [name.title() for name in _named(person)]
    said = np.empty((1, len(names)), object)
    said[0] = [np.array([name]) for name in names]
    rated = _struct(**dict(zip(("valence", "arousal", "dominance"), person.vad, strict=True)))
    one, box = _struct(categories=said), np.array([person.box], float)
    about = {"gender": "Male", "age": "Adult"}
    if split == "train":
        return _struct(
            body_bbox=box, annotations_categories=one, annotations_continuous=rated, **about
        )
    return _struct(
        body_bbox=box,
        annotations_categories=np.concatenate([one] * 3, axis=1),
        combined_categories=said,
        annotations_continuous=np.concatenate([rated] * 3, axis=1),
        combined_continuous=rated,
        **about,
    )


def _struct(**fields: Any) -> npt.NDArray[Any]:
    """A MATLAB structure."""
    made = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        made[name][0, 0] = value
    return made


_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


def write_video(path: Path | str, pictures: Iterable[DrawnImage], rate: float = 10.0) -> int:
    """Write pictures of one size, such as those of `clip`, as a video; returns their number.

    Args:
        path: ends with .mp4 or .avi; its folder exists.
        pictures: at least one.
        rate: pictures a second.

    Raises:
        ValueError: another ending, another size than the first picture's, no picture, or a rate
            that is not positive.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _CODECS:
        raise ValueError(f"{path} is no video that can be written: end it with .mp4 or .avi")
    if not rate > 0:
        raise ValueError(f"{rate} pictures a second: the rate must be above 0")
    rest = iter(pictures)
    first = next(rest, None)
    if first is None:
        raise ValueError(f"there is no picture for {path}: give at least one")
    height, width = first.image.shape[:2]
    codec = cv2.VideoWriter.fourcc(*_CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), codec, rate, (width, height))
    if not writer.isOpened():
        raise OSError(f"{path} cannot be written: does its folder exist?")
    count = 0
    try:
        for picture in chain([first], rest):
            if picture.image.shape[:2] != (height, width):
                raise ValueError(
                    f"picture {count} has another size than the first, {width} x {height}: "
                    "a video has one size"
                )
            writer.write(cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        writer.release()
    return count


def write_bag(
    folder: Path | str,
    pictures: Iterable[DrawnImage],
    *,
    storage: str = "mcap",
    topic: str = "/camera/image_raw",
    start_ns: int = 0,
) -> int:
    """Write pictures such as those of `clip` as a ROS 2 bag of raw images; returns their number.

    Args:
        folder: a path that does not exist yet.
        pictures: the images to write.
        storage: "mcap" or "sqlite3".
        topic: the topic of the images.
        start_ns: the stamp of the image with the stamp 0.

    Raises:
        ValueError: another storage, a folder that is there, or no picture.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

    from emotion_perception.io.bags import image_message, typestore
    from emotion_perception.io.image_decoding import IMAGE

    if storage.upper() not in StoragePlugin.__members__:
        raise ValueError(f"there is no storage {storage!r}: choose mcap or sqlite3")
    store = typestore()
    rest = iter(pictures)
    first = next(rest, None)
    if first is None:
        raise ValueError(f"there is no picture for {folder}: give at least one")
    count = 0
    try:
        with Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
            connection = writer.add_connection(topic, IMAGE, typestore=store)
            for picture in chain([first], rest):
                stamp_ns = start_ns + picture.stamp_ns
                message = image_message(Frame(picture.image, stamp_ns, "world"))
                writer.write(connection, stamp_ns, store.serialize_cdr(message, IMAGE))
                count += 1
    except WriterError as error:
        raise ValueError(f"{folder} cannot be written as a bag: {error}") from error
    return count


_TRUTH: tuple[str, ...] = (
    *("person", "start", "end", "left", "top", "right", "bottom"),
    *("labels", "valence", "arousal", "dominance"),
)


def write_clip(path: Path | str, pictures: Iterable[DrawnImage], rate: float = 10.0) -> int:
    """Write pictures such as those of `clip`, and beside them what is true; returns their number.

    The truth is a CSV file of the same name with a row for each picture and person, as `replay
    --labels` reads it: `start` in seconds after the first picture, no `end`, the box in pixels,
    labels with semicolons between them, affect in -1..1.

    Args:
        path: of a video, as `write_video`; with another ending the folder of a bag, as `write_bag`.
        pictures: the images to write.
        rate: pictures a second of a video.

    Raises:
        ValueError: as `write_video` or `write_bag`; OSError: something cannot be written.
    """
    path, rows = Path(path), [_TRUTH]

    def noted() -> Iterator[DrawnImage]:
        for picture in pictures:
            rows.extend(_true(picture))
            yield picture

    if path.suffix.lower() in VIDEO_SUFFIXES:
        count, truth = write_video(path, noted(), rate), path.with_suffix(".csv")
    else:
        count, truth = write_bag(path, noted()), path.with_name(f"{path.name}.csv")
    atomic.write_files({truth: _table(rows)})
    return count


def _true(picture: DrawnImage) -> Iterator[tuple[str, ...]]:
    start = f"{picture.stamp_ns / 1e9:.3f}"
    for person, track in zip(picture.people, picture.scene().people, strict=True):
        valence, arousal, dominance = person.vad
        affect = (f"{x:.3f}" for x in vad_from_emotic((valence, arousal, dominance)))
        box = (f"{x:g}" for x in person.box)
        yield track.person_id, start, "", *box, "; ".join(_named(person)), *affect
