"""Describe how people look by the colours of their clothes, to tell them apart in one camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import Box, FloatArray, ImageArray

_WIDTH, _HEIGHT = 24, 60  # px, to which each person is scaled
_OVERSAMPLING = 2  # pixels of the image along each side of a scaled pixel that are averaged
_ROWS = (0, 13, 35, 60)  # head, torso and legs of a standing person
_BINS = (12, 8, 8)  # lightness, and the two chroma axes of CIELAB
_CHROMA_SCALE = 15.0  # clothes of pedestrians differ by few units of chroma around grey
_BODY_WIDTH = 0.2  # standard deviation of the weight across the box, in widths of the box
_EDGE = 3  # columns at each side of the scaled person that show mostly background

_MIN_PART = 0.3  # visible share of a part from which it is compared and learned
_MIN_VISIBLE = 0.4  # mean visible share of the parts from which two people are compared
_WORSE_VIEW, _BETTER_VIEW = 0.6, 1.5  # ratios of visible shares, see `updated`

_PARTS = len(_ROWS) - 1
_PART_OF_ROW = np.repeat(np.arange(_PARTS), np.diff(_ROWS))
_BIN_COUNT = int(np.prod(_BINS))


def _bin_tables() -> tuple[npt.NDArray[np.intp], ...]:
    """Return per channel of an 8-bit CIELAB image the bin of each value, scaled for a sum.

    Bins of lightness are narrow where it is dark, and those of chroma around grey: that is where
    the clothes of different people are near each other.
    """
    value = np.arange(256) / 256
    lightness = np.sqrt(value)
    chroma = (np.tanh((value * 256 - 128) / _CHROMA_SCALE) + 1) / 2
    indices = [
        np.minimum((share * bins).astype(np.intp), bins - 1)
        for share, bins in zip((lightness, chroma, chroma), _BINS, strict=True)
    ]
    return (indices[0] * _BINS[1] * _BINS[2], indices[1] * _BINS[2], indices[2])


_TABLES = _bin_tables()
_WEIGHTS = np.exp(-0.5 * (((np.arange(_WIDTH) + 0.5) / _WIDTH - 0.5) / _BODY_WIDTH) ** 2)
_AT_EDGE = (np.arange(_WIDTH) < _EDGE) | (np.arange(_WIDTH) >= _WIDTH - _EDGE)


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """The colours of a person's head, torso and legs, as far as they are visible."""

    colours: FloatArray
    """(3, B) square roots of colour histograms, each row of length 1, or 0 if nothing is known."""
    visible: FloatArray
    """(3,) share of each part that no nearer person hides, 0..1."""

    def similarity(self, other: Appearance) -> float | None:
        """Return the Bhattacharyya coefficient of two people, 0..1, weighted by what is visible.

        None if too little of them is visible in both.
        """
        shared = np.minimum(self.visible, other.visible)
        shared[shared < _MIN_PART] = 0.0
        if shared.sum() < _MIN_VISIBLE * _PARTS:
            return None
        return float(shared @ (self.colours * other.colours).sum(1) / shared.sum())

    def updated(self, newer: Appearance, weight: float) -> Appearance:
        """Return a running average with a newer appearance of the same person.

        A part that is much less visible than before is not learned, because its box shows others.
        A part that is much more visible replaces what was known.

        Args:
            newer: of the same person.
            weight: of the newer one, 0..1.
        """
        enough = newer.visible >= np.maximum(_MIN_PART, _WORSE_VIEW * self.visible)
        better = newer.visible >= _BETTER_VIEW * self.visible
        share = np.where(enough, np.where(better, 1.0, weight), 0.0)
        colours = self.colours + share[:, None] * (newer.colours - self.colours)
        length = np.linalg.norm(colours, axis=1, keepdims=True)
        visible = self.visible + share * (newer.visible - self.visible)
        return Appearance((colours / np.maximum(length, 1e-9)).astype(np.float32), visible)


def describe(image: ImageArray, boxes: Sequence[Box]) -> list[Appearance]:
    """Return the appearance of each person in an image.

    A pixel counts more in the middle of a box, and not at all inside the box of a nearer person,
    whose feet are lower in the image. Colours that are frequent at the sides of the box count less,
    because they belong to the background (as in mean-shift tracking: Comaniciu et al., PAMI 2003).

    Args:
        image: (H, W, 3) RGB.
        boxes: of all people, in pixels; a box outside the image gives an appearance of nothing.
    """
    height, width = image.shape[:2]
    count = len(boxes)
    bins = np.zeros((count, _HEIGHT, _WIDTH), np.intp)
    weights = np.zeros((count, _HEIGHT, _WIDTH))
    inside = [box.clipped(width, height) for box in boxes]
    for i, box in enumerate(inside):
        if not box.area > 0:
            continue
        crop = image[box.pixels(width, height)]
        # Near people have many more pixels than are needed: their cost would be that of the frame.
        step = max(min(crop.shape[0] // _HEIGHT, crop.shape[1] // _WIDTH) // _OVERSAMPLING, 1)
        crop = np.ascontiguousarray(crop[::step, ::step])
        small = cv2.resize(crop, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
        lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
        bins[i] = sum(table[lab[..., channel]] for channel, table in enumerate(_TABLES))
        weights[i] = _WEIGHTS
        for other in inside:
            if _hides(other, box):
                weights[i][_hidden(box, other)] = 0.0
    part = np.arange(count)[:, None, None] * _PARTS + _PART_OF_ROW[None, :, None]
    bins += part * _BIN_COUNT
    person = _histograms(bins, weights)
    background = _histograms(bins, np.where(_AT_EDGE, weights > 0, 0.0))
    colours = np.sqrt(person * person / np.maximum(person + background, 1e-12))
    colours /= np.maximum(np.linalg.norm(colours, axis=-1, keepdims=True), 1e-9)
    visible = np.add.reduceat(weights.sum(2), _ROWS[:-1], axis=1)
    visible /= np.diff(_ROWS) * _WEIGHTS.sum()
    return [Appearance(*each) for each in zip(colours.astype(np.float32), visible, strict=True)]


def _hides(other: Box, box: Box) -> bool:
    """Return whether `other` is nearer than `box` where both overlap; both are in the image.

    If the feet of both are below the image, the taller one is nearer.
    """
    overlap = (
        min(other.right, box.right) > max(other.left, box.left)
        and min(other.bottom, box.bottom) > max(other.top, box.top)
    )  # fmt: skip
    return overlap and (other.bottom, other.height) > (box.bottom, box.height)


def _hidden(box: Box, other: Box) -> tuple[slice, slice]:
    """Return the rows and columns of the scaled person that another box covers."""
    x, y = _WIDTH / box.width, _HEIGHT / box.height
    top, bottom = ((side - box.top) * y for side in (other.top, other.bottom))
    left, right = ((side - box.left) * x for side in (other.left, other.right))
    return (
        slice(max(round(top), 0), max(round(bottom), 0)),
        slice(max(round(left), 0), max(round(right), 0)),
    )


def _histograms(bins: npt.NDArray[np.intp], weights: FloatArray) -> FloatArray:
    """Return the normalised colour histogram of each part of each person, (N, 3, B).

    Each is blurred by one bin along each axis, so that a small change of colour at the limit of two
    bins remains a small change.

    Args:
        bins: (N, H, W) number of the bin of each pixel, over all people and parts.
        weights: (N, H, W) of each pixel.
    """
    count = len(bins) * _PARTS
    histogram = np.bincount(bins.ravel(), weights.ravel(), count * _BIN_COUNT)
    histogram = histogram.reshape(count, *_BINS)
    for axis in range(1, 4):
        last = histogram.shape[axis] - 1
        index = np.arange(last + 1)
        histogram = (
            2 * histogram
            + histogram.take(np.maximum(index - 1, 0), axis)
            + histogram.take(np.minimum(index + 1, last), axis)
        )
    histogram = histogram.reshape(len(bins), _PARTS, _BIN_COUNT)
    share: FloatArray = histogram / np.maximum(histogram.sum(-1, keepdims=True), 1e-9)
    return share
