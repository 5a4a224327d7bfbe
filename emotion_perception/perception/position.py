"""Find where a person is, from their box and a depth image of the same view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import Box, Lens

Position = tuple[float, float, float]
"""Metres in the optical frame of the camera: x to the right, y down, z forward."""
UNKNOWN: Position = (math.nan, math.nan, math.nan)

_TORSO = (0.3, 0.2, 0.7, 0.5)
"""The part of a box that shows the torso, or the head and chest of a person near by: left, top,
right and bottom as shares of its size. Arms and legs leave gaps to the background elsewhere."""
_RANGE_M = (0.1, 30.0)  # nearer and farther values are faults of the sensor
_MIN_PIXELS, _MIN_SHARE = 10, 0.05  # with a depth, of the torso
_ENOUGH_PIXELS = 2000  # of a torso; of more only each second, third, ... row and column is used
_NEAR_SHARE = 0.25
"""The depth at this share of the sorted pixels is taken for the person. Less than this share may be
nearer, such as a hand or a chair, and less than the rest farther, such as the background."""
_BODY_M = 0.3  # from the nearest pixels of a torso to those counted with it


@dataclass(frozen=True, slots=True, eq=False)
class DepthImage:
    """A depth image in the pixels of the colour image, or in larger or smaller ones."""

    pixels: npt.NDArray[Any]
    """(H, W), uint16 or float32; 0, NaN and infinity: no depth."""
    metres: float
    """Metres per unit of the pixels."""
    lens: Lens
    """Of an image of this size."""


def position_of(box: Box, width: int, height: int, depth: DepthImage) -> Position:
    """Return the position of a person's torso; NaN if the depth image has too few values there.

    Args:
        box: The person, in pixels of the colour image.
        width: Width of the colour image in pixels.
        height: Height of the colour image in pixels.
        depth: Of the same view.
    """
    rows, columns = depth.pixels.shape
    across, down = columns / width, rows / height
    left, top, right, bottom = _TORSO
    torso = Box(
        (box.left + left * box.width) * across,
        (box.top + top * box.height) * down,
        (box.left + right * box.width) * across,
        (box.top + bottom * box.height) * down,
    )
    try:
        part = torso.pixels(columns, rows)
    except ValueError:
        return UNKNOWN  # only another part of the person is in view
    # A person near by covers far more pixels than a median needs.
    every = max(1, math.isqrt(depth.pixels[part].size // _ENOUGH_PIXELS))
    metres = depth.pixels[part][::every, ::every].astype(np.float32) * np.float32(depth.metres)
    with np.errstate(invalid="ignore"):
        valid = (metres >= _RANGE_M[0]) & (metres <= _RANGE_M[1])
    count = np.count_nonzero(valid)
    if count < max(_MIN_PIXELS, _MIN_SHARE * metres.size):
        return UNKNOWN
    near = np.quantile(metres[valid], _NEAR_SHARE)
    body = valid & (np.abs(metres - near) <= _BODY_M)
    z = float(np.median(metres[body]))
    at_rows, at_columns = np.nonzero(body)
    u = part[1].start + every * float(np.median(at_columns))
    v = part[0].start + every * float(np.median(at_rows))
    lens = depth.lens
    x, y = (u - lens.cx) / lens.fx * z, (v - lens.cy) / lens.fy * z
    return (x, y, z) if math.isfinite(x + y) else UNKNOWN
