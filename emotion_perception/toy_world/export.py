"""Write the toy world as files: data sets in EMOTIC's format, videos and bags."""

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
from emotion_perception.toy_world.stills import SIZE, Size, as_sizes, check_arguments, draw_images

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
        ValueError: The seed is not allowed, or the folder is not empty.
        OSError: A file cannot be written.
    """
    if not 0 <= options.seed <= MAX_DATA_SEED:
        raise ValueError(
            f"cannot draw --seed {options.seed}: choose 0 to {MAX_DATA_SEED}, since the small "
            "models were trained on the worlds after those"
        )
    first = _FIRST_DATA_SEED + 3 * options.seed
    splits = {name: (first + i, options.images[i]) for i, name in enumerate(_SPLITS)}
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
    """Write a data set in EMOTIC's own format, as `evaluation.datasets.emotic` reads it.

    Also written are masks of the people, which EMOTIC does not have, and the CSV tables of its
    public conversion, with the same content as the annotations.

    Args:
        root: A folder, which is created; existing annotations in it are replaced.
        splits: "train", "val" or "test" to the seed and the number of images.
        size: Width and height of the images, or several sizes that are used in turn.
        people: Smallest and largest number of people per image.
        part: The part of the world for all splits, or one for each split.

    Raises:
        ValueError: As `draw_image`; or a split does not exist, has no image or has no part.
    """
    from scipy.io import savemat

    parts = dict.fromkeys(splits, part) if isinstance(part, str) else part
    for split, (seed, n) in splits.items():
        if split not in _SPLITS:
            raise ValueError(f"there is no split {split!r}: choose one of {', '.join(_SPLITS)}")
        if n < 1:
            raise ValueError(f"the split {split} has {n} images: at least 1 is needed")
        if split not in parts:
            raise ValueError(f"the split {split} has no part: give one for each split")
        for each in as_sizes(size):
            check_arguments(seed, parts[split], each, people)
    root = Path(root)
    content = {}
    for split, (seed, n) in splits.items():
        records, rows = [], [_PUBLIC_COLUMNS]
        for i, drawn in enumerate(draw_images(seed, n, parts[split], size=size, people=people)):
            height, width = drawn.image.shape[:2]
            folder, name = f"{_FOLDERS[i % 4]}/images", f"{split}_{i:06d}.jpg"
            _write_jpeg(root / "emotic" / folder / name, drawn.image)
            for number, mask in enumerate(drawn.masks):
                _write_mask(person_mask_path(root / "emotic" / folder / name, number), mask)
            records.append(_struct(
                filename=np.array([name]),
                folder=np.array([folder]),
                image_size=_struct(n_col=float(width), n_row=float(height)),
                original_database=_struct(name="drawn"),
                person=np.concatenate([_record(p, split) for p in drawn.people], axis=1),
            ))  # fmt: skip
            rows += [
                (folder, name, [width, height], list(p.box), _label_names(p), p.vad.tolist())
                for p in drawn.people
            ]
        atomic.write_files({root / f"{split}.csv": _to_csv(rows)})
        content[split] = np.concatenate(records, axis=1)
    matlab = io.BytesIO()
    savemat(matlab, content)
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    atomic.write_files({root / "Annotations" / "Annotations.mat": matlab.getvalue()})


_PUBLIC_COLUMNS: tuple[Any, ...] = (
    "Folder", "Filename", "Image Size", "BBox", "Categorical_Labels", "Continuous_Labels",
)  # fmt: skip


def _label_names(person: Person) -> list[str]:
    return [EMOTIC_LABELS[k] for k in np.flatnonzero(person.labels)]


def _to_csv(rows: Iterable[Sequence[Any]]) -> bytes:
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
    """Return the record of a person: one annotator in "train", else three who agree."""
    names = [name.title() for name in _label_names(person)]
    categories = np.empty((1, len(names)), object)
    categories[0] = [np.array([name]) for name in names]
    continuous = _struct(**dict(zip(("valence", "arousal", "dominance"), person.vad, strict=True)))
    annotation, box = _struct(categories=categories), np.array([person.box], float)
    attributes = {"gender": "Male", "age": "Adult"}
    if split == "train":
        return _struct(
            body_bbox=box,
            annotations_categories=annotation,
            annotations_continuous=continuous,
            **attributes,
        )
    return _struct(
        body_bbox=box,
        annotations_categories=np.concatenate([annotation] * 3, axis=1),
        combined_categories=categories,
        annotations_continuous=np.concatenate([continuous] * 3, axis=1),
        combined_continuous=continuous,
        **attributes,
    )


def _struct(**fields: Any) -> npt.NDArray[Any]:
    """Return a MATLAB structure."""
    struct = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        struct[name][0, 0] = value
    return struct


_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


def write_video(path: Path | str, images: Iterable[DrawnImage], rate: float = 10.0) -> int:
    """Write images of one size, such as those of `draw_clip`, as a video; return their number.

    Args:
        path: A file with the suffix .mp4 or .avi in an existing folder.
        images: At least one image.
        rate: Images per second.

    Raises:
        ValueError: The suffix is another one, an image differs in size from the first, there is no
            image, or the rate is not positive.
        OSError: The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _CODECS:
        raise ValueError(f"cannot write the video {path}: use the suffix .mp4 or .avi")
    if not rate > 0:
        raise ValueError(
            f"cannot write a video of {rate} images per second: the rate must be above 0"
        )
    rest = iter(images)
    first = next(rest, None)
    if first is None:
        raise ValueError(f"cannot write {path} without an image: pass at least one")
    height, width = first.image.shape[:2]
    codec = cv2.VideoWriter.fourcc(*_CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), codec, rate, (width, height))
    if not writer.isOpened():
        raise OSError(f"cannot write {path}: check that its folder exists and can be written")
    count = 0
    try:
        for drawn in chain([first], rest):
            if drawn.image.shape[:2] != (height, width):
                raise ValueError(
                    f"image {count} differs in size from the first, {width} x {height}: all images "
                    "of a video need the same size"
                )
            writer.write(cv2.cvtColor(drawn.image, cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        writer.release()
    return count


def write_bag(
    folder: Path | str,
    images: Iterable[DrawnImage],
    *,
    storage: str = "mcap",
    topic: str = "/camera/image_raw",
    start_ns: int = 0,
) -> int:
    """Write images such as those of `draw_clip` as a ROS 2 bag; return their number.

    Args:
        folder: A path that does not exist.
        images: At least one image.
        storage: "mcap" or "sqlite3".
        topic: The topic of the images.
        start_ns: The stamp of the image with the stamp 0.

    Raises:
        ValueError: The storage does not exist, the folder exists, or there is no image.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

    from emotion_perception.io.bags import image_message, typestore
    from emotion_perception.io.image_decoding import IMAGE

    if storage.upper() not in StoragePlugin.__members__:
        raise ValueError(f"there is no storage {storage!r}: choose mcap or sqlite3")
    store = typestore()
    rest = iter(images)
    first = next(rest, None)
    if first is None:
        raise ValueError(f"cannot write {folder} without an image: pass at least one")
    count = 0
    try:
        with Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()]) as writer:
            connection = writer.add_connection(topic, IMAGE, typestore=store)
            for drawn in chain([first], rest):
                stamp_ns = start_ns + drawn.stamp_ns
                message = image_message(Frame(drawn.image, stamp_ns, "world"))
                writer.write(connection, stamp_ns, store.serialize_cdr(message, IMAGE))
                count += 1
    except WriterError as error:
        raise ValueError(f"cannot write the bag {folder}: {error}") from error
    return count


_TRUTH_COLUMNS: tuple[str, ...] = (
    *("person", "start", "end", "left", "top", "right", "bottom"),
    *("labels", "valence", "arousal", "dominance"),
)


def write_clip(path: Path | str, images: Iterable[DrawnImage], rate: float = 10.0) -> int:
    """Write images such as those of `draw_clip` and their ground truth; return their number.

    The ground truth is a CSV file of the same name with a row per image and person, as `replay
    --labels` reads it: `start` in seconds after the first image, no `end`, the box in pixels,
    labels separated by semicolons, and affect in -1..1.

    Args:
        path: A video as for `write_video`, or with another suffix the folder of a bag as for
            `write_bag`.
        images: At least one image.
        rate: Images per second of a video.

    Raises:
        ValueError: As `write_video` or `write_bag`.
        OSError: A file cannot be written.
    """
    path, rows = Path(path), [_TRUTH_COLUMNS]

    def with_rows() -> Iterator[DrawnImage]:
        for drawn in images:
            rows.extend(_truth_rows(drawn))
            yield drawn

    if path.suffix.lower() in VIDEO_SUFFIXES:
        count, truth = write_video(path, with_rows(), rate), path.with_suffix(".csv")
    else:
        count, truth = write_bag(path, with_rows()), path.with_name(f"{path.name}.csv")
    atomic.write_files({truth: _to_csv(rows)})
    return count


def _truth_rows(drawn: DrawnImage) -> Iterator[tuple[str, ...]]:
    start = f"{drawn.stamp_ns / 1e9:.3f}"
    for person, track in zip(drawn.people, drawn.scene().people, strict=True):
        valence, arousal, dominance = person.vad
        affect = (f"{x:.3f}" for x in vad_from_emotic((valence, arousal, dominance)))
        box = (f"{x:g}" for x in person.box)
        yield track.person_id, start, "", *box, "; ".join(_label_names(person)), *affect
