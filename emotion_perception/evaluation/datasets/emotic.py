"""Read the EMOTIC data set: annotated people in photographs, with labels and VAD ratings.

Source: Kosti et al., "Context Based Emotion Recognition using EMOTIC Dataset", TPAMI 2019. The
authors provide the data on request (sunai.uoc.edu/emotic) in this layout:

    ROOT/Annotations/Annotations.mat
    ROOT/emotic/{ade20k,emodb_small,framesdb,mscoco}/images/*.jpg
    ROOT/emotic/*/masks/STEM_NUMBER.png    optional: black around the person

The public conversion replaces the annotations by `train.csv`, `val.csv` and `test.csv`, in ROOT or
a subfolder. In the train split each person has one annotator. In the other splits a person
has several annotators: labels are the union, VAD ratings are the mean. Train and val share 383
images, all of framesdb, with 28 % of the people of val.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core import documents
from emotion_perception.core.errors import FrameError
from emotion_perception.core.labels import EMOTIC_LABELS, label_array
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.io import confined
from emotion_perception.io.child import run_in_child
from emotion_perception.io.image_decoding import decode_image
from emotion_perception.io.image_header import FILE_FORMATS
from emotion_perception.io.run_folder import short_hash

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedPerson:
    """A person in an image, with the ground truth."""

    key: str
    """`<folder>/<stem of the image>_<number of the person>.jpg`, as in the files of the paper."""
    box: Box
    """Pixels, clipped to the image."""
    labels: npt.NDArray[np.bool_]
    """(26,), in the order of `EMOTIC_LABELS`."""
    vad: tuple[float, float, float]
    """Valence, arousal and dominance on EMOTIC's scale, 1..10."""
    mask: Path | None = None
    """A greyscale image that is not black where the person is. EMOTIC has no masks."""

    def read_mask(self, frame: Frame) -> npt.NDArray[np.bool_] | None:
        """Return which pixels show the person as an (H, W) array; None if there is no mask.

        Raises:
            FrameError: The mask cannot be read, or has another size than the image.
        """
        if self.mask is None:
            return None
        try:
            visible: npt.NDArray[np.bool_] = (
                decode_image(np.fromfile(self.mask, np.uint8), formats=FILE_FORMATS).max(axis=2) > 0
            )
        except FrameError as error:
            raise FrameError(f"cannot read the mask {self.mask}: {error}") from error
        if visible.shape != (frame.height, frame.width):
            height, width = visible.shape
            raise FrameError(
                f"cannot use the mask {self.mask}: it has {width} x {height} pixels and its image "
                f"has {frame.width} x {frame.height}; resize or remove the mask"
            )
        return visible


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedImage:
    """An image with its annotated people."""

    path: Path
    people: tuple[AnnotatedPerson, ...]
    size: tuple[float, float]
    """Width and height in pixels of the image as it was annotated."""

    def scene(self) -> Scene:
        """Read the image as the input of a recognizer; the key of a person is its `person_id`.

        The pixels are those that were annotated: as they are stored, or turned as the EXIF
        orientation says.

        Raises:
            FrameError: The image cannot be decoded, or has another size than annotated.
            OSError: The file does not exist.
        """
        data = np.fromfile(self.path, np.uint8)
        image = decode_image(data, formats=FILE_FORMATS)
        if image.shape[1::-1] != self.size:
            image = decode_image(data, apply_orientation=True, formats=FILE_FORMATS)
        height, width = image.shape[:2]
        if (width, height) != self.size:
            raise FrameError(
                f"{self.path.name} has {width} x {height} pixels and was annotated with "
                f"{self.size[0]:g} x {self.size[1]:g}, so that its boxes would show other places; "
                "restore the annotated image"
            )
        frame = Frame(image, 0, self.path.stem)
        return Scene(frame, tuple(Track(p.key, p.box, 1.0) for p in self.people))


@dataclass(frozen=True, slots=True, eq=False)
class EmoticSplit:
    """One split of the data set."""

    split: str
    images: tuple[AnnotatedImage, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    """Reason to number of people who cannot be used."""
    missing: tuple[str, ...] = ()
    """Annotated images whose file does not exist; their people are not in `images`."""
    annotations: Path = Path()
    """The file of annotations."""

    @property
    def people(self) -> list[AnnotatedPerson]:
        """All people, in the order of the images."""
        return [person for image in self.images for person in image.people]

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """Ground-truth labels, (N, 26)."""
        return np.array([person.labels for person in self.people]).reshape(-1, len(EMOTIC_LABELS))

    def fingerprint(self, keys: Collection[str] | None = None) -> str:
        """Return 16 letters that change with boxes and ground truth of people, all or by `keys`."""
        people = [p for p in self.people if keys is None or p.key in keys]
        rows = [(p.key, tuple(p.box), p.labels.tobytes(), p.vad) for p in people]
        return short_hash((self.split, rows))


def load(root: Path | str, split: str, require_images: bool = True) -> EmoticSplit:
    """Read the annotations of one split.

    Args:
        root: The folder of the data set.
        split: A name in `SPLITS`.
        require_images: Leave out people whose image file does not exist.

    Raises:
        ValueError: The split or the data set does not exist, or its files are damaged.
    """
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(
            f"cannot load split {split!r}: it does not exist; choose one of {', '.join(SPLITS)}"
        )
    if not root.is_dir():
        raise ValueError(
            f"cannot load {root}: it is not a folder; pass the root of the EMOTIC data set"
        )
    annotations = root / "Annotations" / "Annotations.mat"
    tables = [root / f"{split}.csv", *sorted(root.glob(f"*/{split}.csv"))]
    table = next((path for path in tables if path.is_file()), None)
    if annotations.is_file():
        rows = _rows_of_mat(annotations, split)
    elif table is not None:
        annotations, rows = table, _rows_of_csv(table)
    else:
        raise ValueError(
            f"cannot load {root}: it has neither Annotations/Annotations.mat nor {split}.csv; pass "
            "the root of the EMOTIC data set"
        )
    return _collect(root, split, annotations, rows, require_images)


@dataclass(frozen=True, slots=True)
class SharedImages:
    """The images of a split that are also in another split."""

    split: str
    other: str
    paths: frozenset[Path]
    images: int
    """Images of the other split."""
    people: int
    """People of the other split in the shared images."""

    def __str__(self) -> str:
        return (
            f"{len(self.paths)} of the {self.images} images of {self.other} ({self.people} people) "
            f"are also in {self.split}"
        )


def shared_images(
    root: Path | str, data: EmoticSplit, others: Collection[str]
) -> list[SharedImages]:
    """Return which images of a split are also in other splits of the data set.

    Splits that cannot be read, or share no image, are left out.
    """
    result = []
    paths = {image.path for image in data.images}
    for name in sorted(set(others) - {data.split}):
        try:
            other = load(root, name, require_images=False)
        except ValueError:
            continue
        if shared := [image for image in other.images if image.path in paths]:
            people = sum(len(image.people) for image in shared)
            result.append(
                SharedImages(
                    *(data.split, name, frozenset(image.path for image in shared)),
                    *(len(other.images), people),
                )
            )
    return result


def training_images(
    root: Path | str, data: EmoticSplit, keep_shared: bool, report: Callable[[str], None]
) -> EmoticSplit:
    """Leave out of training data the images that are also in val or test; report how many.

    Args:
        root: The folder of the data set.
        data: The split to train on.
        keep_shared: Only report these images.
        report: Called with a line for each other split with shared images.

    Raises:
        ValueError: No image would be left.
    """
    left_out: set[Path] = set()
    for shared in shared_images(root, data, ("val", "test")):
        effect = (
            f"they stay in the training data, so that figures on {shared.other} are too high"
            if keep_shared
            else "they are left out of the training data"
        )
        report(f"{shared}; {effect}")
        left_out |= set() if keep_shared else shared.paths
    images = tuple(image for image in data.images if image.path not in left_out)
    if not images:
        raise ValueError(
            f"cannot train on {data.split}: all its images are also in val or test; use other "
            "data, or add --keep-shared"
        )
    return replace(data, images=images)


def person_mask_path(image: Path, number: int) -> Path:
    """Return where the mask of the n-th person of an image is: in `masks` beside its folder."""
    return image.parents[1] / "masks" / f"{image.stem}_{number}.png"


@dataclass(frozen=True, slots=True)
class _Row:
    """An annotated person as stored in the files."""

    folder: str
    filename: str
    size: tuple[float, float]
    box: list[float]
    labels: npt.NDArray[np.bool_]
    vad: list[float]


def _parse_row(folder: Any, filename: Any, size: Any, box: Any, labels: Any, vad: Any) -> _Row:
    """Check types and lengths.

    Raises:
        ValueError: A value has another type or length, or a label does not exist.
    """
    if not (isinstance(folder, str) and isinstance(filename, str)):
        raise ValueError(f"{folder!r} and {filename!r} are not the names of a folder and a file")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{labels!r} is not a list of labels")
    width, height = _floats(size, "an image size", 2)
    if not (width > 0 and height > 0):
        raise ValueError(f"{size} is not an image size: expected positive numbers")
    corners, ratings = _floats(box, "a box", 4), _floats(vad, "a list of VAD ratings", 3)
    return _Row(folder, filename, (width, height), corners, label_array(labels), ratings)


def _floats(values: Any, expected: str, length: int) -> list[float]:
    """Return a list of numbers, with NaN for None."""
    numbers = isinstance(values, list) and all(isinstance(v, int | float | None) for v in values)
    if not numbers or len(values) != length:
        raise ValueError(f"{values!r} is not {expected}: expected {length} numbers")
    return [float("nan") if value is None else float(value) for value in values]


def _unusable(row: _Row, box: Box, size: tuple[float, float]) -> str | None:
    """Return why a person in an image of a size cannot be used; None if there is no reason."""
    if row.size != size:
        return "another person of the image has another image size"
    if not np.isfinite(row.vad).all():
        return "valence, arousal or dominance is NaN"
    if not row.labels.any():
        return "no label"
    if np.isnan(row.box).any():
        return "the box is NaN"
    if not box.area > 0:
        return "the box is outside the image"
    return None


def _collect(
    root: Path, split: str, annotations: Path, rows: Iterator[_Row], require_images: bool
) -> EmoticSplit:
    """Make a split from its rows: number the people of each image, and drop unusable ones."""
    dropped: Counter[str] = Counter()
    people: dict[Path, list[AnnotatedPerson]] = {}
    sizes: dict[Path, tuple[float, float]] = {}
    numbers: Counter[str] = Counter()
    missing: dict[str, None] = {}
    images_by_key: dict[str, str] = {}
    paths: dict[str, Path | None] = {}
    for row in rows:
        name = f"{row.folder}/{row.filename}"
        number = numbers[name]
        numbers[name] += 1
        if name not in paths:
            paths[name] = _find_image(root, name)
        path = paths[name]
        if path is None and require_images:
            missing[name] = None
            continue
        path = path or root / "emotic" / name
        box = Box(*row.box).clipped(*row.size)
        size = sizes.setdefault(path, row.size)
        if reason := _unusable(row, box, size):
            dropped[reason] += 1
            continue
        key = f"{row.folder.split('/')[0]}/{Path(row.filename).stem}_{number}.jpg"
        if (other := images_by_key.setdefault(key, name)) != name:
            raise ValueError(
                f"cannot tell the people of {other} and {name} apart: both images have a person "
                f"with the key {key!r}; rename one image, also in the annotations"
            )
        valence, arousal, dominance = row.vad
        mask = person_mask_path(path, number)
        if mask.is_file():
            confined.join(root, os.path.relpath(mask, root))
        person = AnnotatedPerson(
            key, box, row.labels, (valence, arousal, dominance), mask if mask.is_file() else None
        )
        people.setdefault(path, []).append(person)
    images = tuple(
        AnnotatedImage(path, tuple(members), sizes[path]) for path, members in people.items()
    )
    if not images:
        raise ValueError(
            f"cannot load the {split} split of {root}: it has no usable people; {len(missing)} "
            f"images do not exist, {dropped.total()} people were dropped"
        )
    return EmoticSplit(split, images, dropped, tuple(missing), annotations)


def _find_image(root: Path, name: str) -> Path | None:
    """Return the file of an annotated image; None if it does not exist.

    Raises:
        ValueError: The name leads out of the data set.
    """
    candidates = [confined.join(root, f"{prefix}{name}") for prefix in ("emotic/", "")]
    return next((path for path in candidates if path.is_file()), None)


def _rows_of_mat(path: Path, split: str) -> Iterator[_Row]:
    rows = run_in_child("emotion_perception.evaluation.datasets.mat_file:rows", str(path), split)
    try:
        for number, cells in rows:
            try:
                yield _parse_row(**cells)
            except ValueError as error:
                raise ValueError(
                    f"image {number} of the split {split!r} is damaged: {error}"
                ) from error
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _rows_of_csv(path: Path) -> Iterator[_Row]:
    columns = ("Folder", "Filename", "Image Size", "BBox", "Categorical_Labels",
               "Continuous_Labels")  # fmt: skip
    try:
        for number, cells in documents.read_csv(path, columns):
            try:
                values = (documents.parse_literal(cells[name]) for name in columns[2:])
                row = _parse_row(cells["Folder"], cells["Filename"], *values)
            except ValueError as error:
                raise ValueError(f"line {number} is truncated or damaged: {error}") from error
            yield row
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
