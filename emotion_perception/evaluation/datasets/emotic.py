"""The EMOTIC data set: who is in which picture, and what annotators saw in them.

Kosti et al., TPAMI 2019. It is given out on request (sunai.uoc.edu/emotic) as

    ROOT/Annotations/Annotations.mat
    ROOT/emotic/{ade20k,emodb_small,framesdb,mscoco}/images/*.jpg

    ROOT/emotic/*/masks/STEM_NUMBER.png    if somebody made them: black around a person

Instead of the first, `train.csv`, `val.csv` and `test.csv` of the public conversion do, in ROOT or
in a folder of it. People of the training part have one annotator; those of the other parts several,
whose categories are united and whose dimensions are averaged.
"""

from __future__ import annotations

import ast
import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.errors import FrameError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import Box, Frame, Scene, Track, Vad
from emotion_perception.io.image_decoding import decode

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """Somebody in a picture, with the ground truth."""

    key: str
    """`<folder>/<stem of the picture>_<number of the person in it>.jpg`, as the paper's files."""
    box: Box
    """Pixels, inside the picture."""
    labels: npt.NDArray[np.bool_]
    """(26,), in the order of `EMOTIC_LABELS`."""
    vad: tuple[float, float, float]
    """Valence, arousal, dominance on EMOTIC's scale, 1..10."""
    mask: Path | None = None
    """A grey picture that is not black where the person is; EMOTIC has none."""

    def pixels(self, frame: Frame) -> npt.NDArray[np.bool_] | None:
        """(H, W): which pixels of the picture show the person; None where nobody knows.

        Raises:
            FrameError: the mask cannot be read, or has another size than the picture.
        """
        if self.mask is None:
            return None
        try:
            shows: npt.NDArray[np.bool_] = decode(np.fromfile(self.mask, np.uint8)).max(axis=2) > 0
        except FrameError as error:
            raise FrameError(f"the mask {self.mask}: {error}") from error
        if shows.shape != (frame.height, frame.width):
            height, width = shows.shape
            raise FrameError(
                f"the mask {self.mask} has {width} x {height} pixels, its picture {frame.width} x "
                f"{frame.height}: make it as large, or remove it"
            )
        return shows


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture and the people in it."""

    path: Path
    people: tuple[Person, ...]

    def scene(self) -> Scene:
        """What a recognizer is asked about; people are named by their keys.

        Raises:
            FrameError: the picture cannot be read.
            OSError: it is not there.
        """
        frame = Frame(decode(np.fromfile(self.path, np.uint8)), 0, self.path.stem)
        return Scene(frame, tuple(Track(p.key, p.box, 1.0) for p in self.people))


@dataclass(frozen=True, slots=True, eq=False)
class Emotic:
    """One part of the data set."""

    split: str
    pictures: tuple[Picture, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    """People who cannot be used: the reason to their number."""
    missing: tuple[str, ...] = ()
    """Pictures that are annotated but not there; their people are not in `pictures`."""
    annotations: Path = Path()
    """The file that says who is in the pictures."""

    @property
    def people(self) -> list[Person]:
        return [person for picture in self.pictures for person in picture.people]

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """(N, 26)."""
        return np.array([person.labels for person in self.people]).reshape(-1, len(EMOTIC_LABELS))


def load(root: Path | str, split: str, with_pictures: bool = True) -> Emotic:
    """Read one part of the data set.

    Args:
        with_pictures: leave out people whose picture is not there; False: nobody will look at it.

    Raises:
        ValueError: there is no such part, no data set in that folder, or its files are no such
            annotations; the message says which.
    """
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}")
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: expected the root of the EMOTIC data set")
    annotations = root / "Annotations" / "Annotations.mat"
    tables = [root / f"{split}.csv", *sorted(root.glob(f"*/{split}.csv"))]
    table = next((path for path in tables if path.is_file()), None)
    if annotations.is_file():
        rows = _rows_of_mat(annotations, split)
    elif table is not None:
        annotations, rows = table, _rows_of_csv(table)
    else:
        raise ValueError(
            f"{root} holds no EMOTIC: neither Annotations/Annotations.mat nor {split}.csv"
        )
    return _collect(root, split, annotations, rows, with_pictures)


def from_vad(vad: tuple[float, float, float]) -> Vad:
    """From EMOTIC's 1..10 to -1..1."""
    return Vad(*((value - 5.5) / 4.5 for value in vad))


def to_vad(vad: Vad) -> tuple[float, float, float]:
    """From -1..1 to EMOTIC's 1..10."""
    valence, arousal, dominance = (value * 4.5 + 5.5 for value in vad)
    return valence, arousal, dominance


@dataclass(frozen=True, slots=True)
class _Row:
    """An annotated person as the files have them."""

    folder: str
    filename: str
    size: tuple[float, float]
    box: list[float]
    labels: npt.NDArray[np.bool_]
    vad: list[float]


def _row(folder: Any, filename: Any, size: Any, box: Any, categories: Any, vad: Any) -> _Row:
    """
    Raises:
        ValueError: something is of another type or length, or is no label.
    """
    if not (isinstance(folder, str) and isinstance(filename, str)):
        raise ValueError(f"{folder!r} with {filename!r} is no folder with a file")
    if not isinstance(categories, list) or not all(isinstance(c, str) for c in categories):
        raise ValueError(f"{categories!r} is no list of labels")
    width, height = _floats(size, "size", 2)
    if not (width > 0 and height > 0):
        raise ValueError(f"{size} is no size of a picture")
    corners, rated = _floats(box, "box", 4), _floats(vad, "list of ratings", 3)
    return _Row(folder, filename, (width, height), corners, label_array(categories), rated)


def _floats(values: Any, what: str, length: int) -> list[float]:
    """None is NaN."""
    numbers = isinstance(values, list) and all(isinstance(v, int | float | None) for v in values)
    if not numbers or len(values) != length:
        raise ValueError(f"{values!r} is no {what}: expected {length} numbers")
    return [float("nan") if value is None else float(value) for value in values]


def _collect(
    root: Path, split: str, annotations: Path, rows: Iterator[_Row], with_pictures: bool
) -> Emotic:
    dropped: Counter[str] = Counter()
    people: dict[Path, list[Person]] = {}
    numbers: Counter[str] = Counter()
    missing: dict[str, None] = {}
    owners: dict[str, str] = {}
    places = [root / "emotic", root]
    for row in rows:
        name = f"{row.folder}/{row.filename}"
        number = numbers[name]
        numbers[name] += 1
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None and with_pictures:
            missing[name] = None
            continue
        path = path or places[0] / name
        box = Box(*row.box).clipped(*row.size)
        if not np.isfinite(row.vad).all():
            dropped["valence, arousal or dominance is NaN"] += 1
        elif not row.labels.any():
            dropped["no category"] += 1
        elif np.isnan(row.box).any():
            dropped["the box is NaN"] += 1
        elif not box.area > 0:
            dropped["the box lies outside the picture"] += 1
        else:
            key = f"{row.folder.split('/')[0]}/{Path(row.filename).stem}_{number}.jpg"
            if (other := owners.setdefault(key, name)) != name:
                raise ValueError(
                    f"{other} and {name} both have somebody with the key {key!r}: rename one of "
                    "them, in the annotations, too"
                )
            valence, arousal, dominance = row.vad
            file = mask_file(path, number)
            mask = file if file.is_file() else None
            one = Person(key, box, row.labels, (valence, arousal, dominance), mask)
            people.setdefault(path, []).append(one)
    pictures = tuple(Picture(path, tuple(found)) for path, found in people.items())
    if not pictures:
        raise ValueError(
            f"the {split} part under {root} has nobody to judge: {len(missing)} pictures are not "
            f"there, {dropped.total()} people were dropped"
        )
    return Emotic(split, pictures, dropped, tuple(missing), annotations)


def mask_file(picture: Path, number: int) -> Path:
    """Where the mask of a person of a picture would lie: beside the folder of the pictures."""
    return picture.parents[1] / "masks" / f"{picture.stem}_{number}.png"


def label_array(categories: list[str]) -> npt.NDArray[np.bool_]:
    """(26,): which of EMOTIC's labels are named, in whatever case.

    Raises:
        ValueError: a name is none of them.
    """
    found = np.zeros(len(EMOTIC_LABELS), bool)
    for category in categories:
        if category.lower() not in EMOTIC_LABELS:
            raise ValueError(f"{category!r} is no label of EMOTIC: {', '.join(EMOTIC_LABELS)}")
        found[EMOTIC_LABELS.index(category.lower())] = True
    return found


def _rows_of_mat(path: Path, split: str) -> Iterator[_Row]:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # of whatever kind SciPy trips over in damaged bytes
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if split not in content:
        raise ValueError(f"{path} has no part {split!r}, only {', '.join(_parts(content))}")
    for number, picture in enumerate(content[split].ravel(), 1):
        try:
            rows = list(_rows_of_picture(picture, split))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                f"{path}, picture {number} of the part {split!r} is damaged: {error}"
            ) from error
        yield from rows


def _rows_of_picture(picture: Any, split: str) -> Iterator[_Row]:
    # A person's fields: box, categories of each annotator, and for several annotators the united
    # ones; then the same for the dimensions. How deep the cells are nested differs; what is in
    # them does not.
    categories, dimensions = (1, 2) if split == "train" else (2, 4)
    for person in picture[4].ravel():
        rated = _numbers(person[dimensions])
        if not rated or len(rated) % 3:  # an empty cell is a rating that nobody gave
            rated = [float("nan")] * 3
        yield _row(
            folder=_words(picture[1])[0],
            filename=_words(picture[0])[0],
            size=_numbers(picture[2])[:2],
            box=_numbers(person[0])[:4],
            categories=_words(person[categories]),
            vad=np.reshape(rated, (-1, 3)).mean(axis=0).tolist(),
        )


def _parts(content: dict[str, Any]) -> list[str]:
    return [name for name in content if not name.startswith("__")]


def _leaves(cell: Any) -> Iterator[Any]:
    """Everything in nested cells and structures, in their order."""
    if isinstance(cell, np.ndarray) and (cell.dtype == object or cell.dtype.names):
        for item in cell.ravel():
            yield from _leaves(item)
    elif isinstance(cell, np.void):  # one element of a structure
        for item in cell.item():
            yield from _leaves(item)
    elif isinstance(cell, np.ndarray):
        yield from cell.ravel().tolist()
    else:
        yield cell


def _words(cell: Any) -> list[str]:
    return [leaf for leaf in _leaves(cell) if isinstance(leaf, str)]


def _numbers(cell: Any) -> list[float]:
    return [float(leaf) for leaf in _leaves(cell) if isinstance(leaf, int | float)]


def _rows_of_csv(path: Path) -> Iterator[_Row]:
    columns = ("Folder", "Filename", "Image Size", "BBox", "Categorical_Labels",
               "Continuous_Labels")  # fmt: skip
    for number, row in _lines(path, columns):
        try:
            values = (ast.literal_eval(row[name].replace("nan", "None")) for name in columns[2:])
            one = _row(row["Folder"], row["Filename"], *values)
        except (ValueError, SyntaxError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path}, line {number} is cut short or damaged: {error}") from error
        yield one


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each line, and what is in it."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {number} is no UTF-8: save the file as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path} lacks the columns {', '.join(lacking)}")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} is damaged: {error}") from error
