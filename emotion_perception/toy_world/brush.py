"""Draw flat shapes with soft edges on a canvas of four channels: red, green, blue and tag.

The tag marks the person who was painted there last; boxes and visibility are computed from it. One
unit is the height of the image; x points right from the middle, y down from the top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import ImageArray

Floats = npt.NDArray[np.float64]
Points = Floats | Sequence[Sequence[float]]
Random = np.random.Generator
Light = tuple[bytes, bytes, bytes]
"""A lookup table of 256 bytes for each of red, green and blue."""

_SHIFT = 4  # OpenCV draws in sixteenths of a pixel
TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)
CIRCLE = np.column_stack([np.cos(TURN), np.sin(TURN)])
_ROUND = np.column_stack([CIRCLE, np.ones(len(CIRCLE))])


@cache
def rgb(colour: str) -> tuple[int, int, int]:
    """Parse a colour "rrggbb"."""
    return tuple(bytes.fromhex(colour))  # type: ignore[return-value]


def shade(colour: str, factor: float) -> str:
    """Return a darker (factor below 1) or lighter colour."""
    return bytes(min(255, round(value * factor)) for value in rgb(colour)).hex()


def _rotation(angle: float) -> Floats:
    """Return the (2, 2) matrix that turns row vectors clockwise (y points down), in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


@cache
def lightness(colour: str) -> float:
    """Return the lightness of a colour, 0..255."""
    return sum(rgb(colour)) / 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Brush:
    """A canvas with an affine map from drawing units to pixels."""

    canvas: ImageArray
    """(H, W, 4): red, green, blue, tag."""
    linear: Floats
    """(2, 2); maps a row of units to a row of sixteenths of a pixel."""
    offset: Floats
    """(2,), in sixteenths of a pixel."""
    scale: float
    """Pixels per unit."""
    light: Light
    """Applied to every colour."""
    tag: int = 0

    @classmethod
    def from_size(cls, size: tuple[int, int], light: Light, tilt: float = 0.0) -> Brush:
        """Return a brush on a new canvas of (width, height), with a camera tilt in radians."""
        width, height = size
        canvas = np.zeros((height, width, 4), np.uint8)
        linear = _rotation(tilt) * height * 16
        offset = np.array([8.0 * width, 8.0 * height]) - [0, 0.5] @ linear
        return cls(canvas, linear, offset, height, light)

    @property
    def aspect(self) -> float:
        """Width divided by height."""
        return float(self.canvas.shape[1] / self.canvas.shape[0])

    def image(self) -> ImageArray:
        """Return the visible channels, an (H, W, 3) RGB image."""
        return np.asarray(cv2.cvtColor(self.canvas, cv2.COLOR_RGBA2RGB), np.uint8)

    def moved(
        self, x: float, y: float, scale: float | tuple[float, float] = 1.0, turn: float = 0.0
    ) -> Brush:
        """Return the brush of a person at x, y, scaled and turned."""
        wide, high = scale if isinstance(scale, tuple) else (scale, scale)
        return replace(
            self,
            linear=np.array([[wide], [high]]) * _rotation(turn) @ self.linear,
            offset=self.offset + (x, y) @ self.linear,
            scale=self.scale * math.sqrt(abs(wide * high)),
        )

    def _pixels(self, points: Points) -> npt.NDArray[np.int32]:
        return np.rint(np.asarray(points) @ self.linear + self.offset).astype(np.int32)

    def _paint(self, colour: str) -> tuple[int, ...]:
        red, green, blue = rgb(colour)
        return self.light[0][red], self.light[1][green], self.light[2][blue], self.tag

    def convex(self, points: Points, colour: str) -> None:
        """Fill a convex polygon."""
        cv2.fillConvexPoly(
            self.canvas, self._pixels(points), self._paint(colour), cv2.LINE_AA, _SHIFT
        )

    def shape(self, points: Points, colour: str) -> None:
        """Fill any polygon."""
        self.shapes(np.asarray(points)[None], colour)

    def shapes(self, polygons: Floats, colour: str) -> None:
        """Fill M polygons of P points that do not overlap, (M, P, 2)."""
        points = list(self._pixels(polygons))
        cv2.fillPoly(self.canvas, points, self._paint(colour), cv2.LINE_AA, _SHIFT)

    def oval(self, x: float, y: float, wide: float, high: float, colour: str) -> None:
        """Fill an ellipse with these half axes; one below a third of a pixel is not drawn."""
        if max(wide, high) * self.scale < 0.3:
            return
        circle = _ROUND if max(wide, high) * self.scale > 5 else _ROUND[::2]
        placed = np.array([[wide, 0.0], [0.0, high], [x, y]]) @ self.linear
        placed[2] += self.offset
        points = circle @ placed
        cv2.fillConvexPoly(
            self.canvas, points.astype(np.int32), self._paint(colour), cv2.LINE_AA, _SHIFT
        )

    def ovals(self, centres: Floats, wide: float, high: float, colour: str) -> None:
        """Fill ellipses that do not overlap."""
        self.shapes(CIRCLE[::2] * (wide, high) + centres[:, None], colour)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        """Fill a disc."""
        self.oval(x, y, radius, radius, colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: str) -> None:
        """Fill a rectangle."""
        self.convex([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def lines(self, lines: Sequence[Points], width: float, colour: str) -> None:
        """Draw lines with round ends; the width is in units, and at least one pixel."""
        cv2.polylines(
            self.canvas, [self._pixels(line) for line in lines], False, self._paint(colour),
            max(1, round(width * self.scale)), cv2.LINE_AA, _SHIFT,
        )  # fmt: skip

    def line(self, points: Points, width: float, colour: str) -> None:
        """Draw one line."""
        self.lines([points], width, colour)

    def sky(self, top: str, bottom: str, until: float) -> None:
        """Fill the canvas with a gradient from y = 0 to y = until, and `bottom` below."""
        share = np.linspace(0, 1 / until, len(self.canvas)).clip(0, 1)[:, None]
        colours = np.array(self._paint(top)) * (1 - share) + np.array(self._paint(bottom)) * share
        pixels = np.rint(colours).astype(np.uint8)
        self.canvas.view(np.uint32)[..., 0] = pixels.view(np.uint32)  # four channels at once

    def ground(self, y: float, colour: str) -> None:
        """Fill everything below y, wider than the image because the camera may be tilted."""
        self.box(-2 * self.aspect, y, 2 * self.aspect, 2, colour)


def curve(*points: tuple[float, float], steps: int = 9) -> Floats:
    """Return points of the quadratic Bezier curve with three control points, (steps, 2)."""
    t = np.linspace(0, 1, steps)[:, None]
    start, middle, end = (np.array(p) for p in points)
    points_on_curve: Floats = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    return points_on_curve
