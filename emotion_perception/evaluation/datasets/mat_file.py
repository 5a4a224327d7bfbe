"""Read the annotations of EMOTIC from Annotations.mat, in a child process.

The reader of SciPy crashes on damaged files. See `emotic` for the data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Cells = dict[str, Any]
"""Folder, filename, size, box, labels and VAD ratings of a person; a missing number is None."""


def rows(path: str, split: str) -> Iterator[tuple[int, Cells]]:
    """Yield the people of a split, each with the number of the image, ready for JSON.

    Raises:
        ValueError: The file is damaged or has no such split.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # SciPy raises many kinds of errors for damaged bytes
        raise ValueError(f"it cannot be read as a MATLAB file: {error}") from error
    if split not in content:
        splits = ", ".join(name for name in content if not name.startswith("__"))
        raise ValueError(f"it has no split {split!r}, only {splits}")
    for number, image in enumerate(content[split].ravel(), 1):
        try:
            people = list(_people(image, split))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ValueError(
                f"image {number} of the split {split!r} is damaged: {error}"
            ) from error
        for cells in people:
            yield number, cells


def _people(image: Any, split: str) -> Iterator[Cells]:
    # Fields of a person: the box, the labels by each annotator, then (with several annotators) the
    # union of the labels; then the same for the VAD ratings. The nesting of cells varies between
    # images, their contents do not.
    labels, ratings = (1, 2) if split == "train" else (2, 4)
    for person in image[4].ravel():
        vad = _numbers(person[ratings])
        if not vad or len(vad) % 3:  # an empty cell means that a rating is missing
            vad = [float("nan")] * 3
        yield {
            "folder": _strings(image[1])[0],
            "filename": _strings(image[0])[0],
            "size": _finite(_image_size(image[2])),
            "box": _finite(_numbers(person[0])[:4]),
            "labels": _strings(person[labels]),
            "vad": _finite(np.reshape(vad, (-1, 3)).mean(axis=0).tolist()),
        }


def _finite(numbers: list[float]) -> list[float | None]:
    return [number if np.isfinite(number) else None for number in numbers]


def _image_size(cell: Any) -> list[float]:
    """Return width and height, by name where the structure has the names of the data set."""
    names = getattr(cell.dtype, "names", None) or ()
    if {"n_col", "n_row"} <= set(names):
        return [_numbers(cell[name])[0] for name in ("n_col", "n_row")]
    return _numbers(cell)[:2]


def _leaves(cell: Any) -> Iterator[Any]:
    """Yield the values in nested cells and structures, in order."""
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


def _strings(cell: Any) -> list[str]:
    return [leaf for leaf in _leaves(cell) if isinstance(leaf, str)]


def _numbers(cell: Any) -> list[float]:
    return [float(leaf) for leaf in _leaves(cell) if isinstance(leaf, int | float)]
