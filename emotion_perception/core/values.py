"""The values that flow through the package, in the order they appear.

All of them are frozen: whoever needs another value makes one. Arrays inside are shared, not
copied, and nobody writes to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
ImageArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera picture."""

    image: ImageArray
    """(H, W, 3), RGB."""
    stamp_ns: int
    """When it was taken, on the camera's clock."""
    camera: str
    """The frame_id of the optical frame."""

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        return int(self.image.shape[1])


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    def clipped(self, width: float, height: float) -> Box:
        """The part of the box inside a picture of that size; its area is 0 if there is none."""
        left, right = (min(max(x, 0.0), width) for x in (self.left, self.right))
        top, bottom = (min(max(y, 0.0), height) for y in (self.top, self.bottom))
        return Box(left, top, max(left, right), max(top, bottom))

    def pixels(self, width: int, height: int) -> tuple[slice, slice]:
        """Rows and columns of the picture that the box touches, to cut it out with.

        Raises:
            ValueError: no pixel of the picture lies in the box.
        """
        inside = self.clipped(width, height)
        if not inside.area > 0:  # also catches NaN
            raise ValueError(f"{self} lies outside the picture of {width} x {height} pixels")
        rows = slice(math.floor(inside.top), math.ceil(inside.bottom))
        columns = slice(math.floor(inside.left), math.ceil(inside.right))
        return rows, columns


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector found in one frame."""

    corners: FloatArray
    """(N, 4): left, top, right, bottom in pixels."""
    confidence: FloatArray
    """(N,), 0..1."""

    def __post_init__(self) -> None:
        if self.corners.shape != (len(self.confidence), 4):
            raise ValueError(
                f"boxes of shape {self.corners.shape} do not fit "
                f"{len(self.confidence)} confidences: expected (N, 4) and (N,)"
            )

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def from_lists(
        cls, boxes: Sequence[Sequence[float]], confidence: Sequence[float]
    ) -> Detections:
        """Detections from plain lists, the empty ones included."""
        return cls(np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(confidence, np.float32))


@dataclass(frozen=True, slots=True)
class Track:
    """Somebody followed over time, as seen in one frame."""

    person_id: str
    """A letter and a number, ("p00012"), so that it is a valid token of a ROS name."""
    box: Box
    confidence: float
    """The detector's, 0..1."""
    position: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    """Metres in the camera frame; NaN without depth."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One frame and the people in it."""

    frame: Frame
    people: tuple[Track, ...]


class Vad(NamedTuple):
    """Valence (negative..positive), arousal (calm..agitated), dominance (without..in control).

    Each lies in -1..1.
    """

    valence: float
    arousal: float
    dominance: float


@dataclass(frozen=True, slots=True, eq=False)
class Assessment:
    """A recognizer's answer about one person in one scene."""

    person_id: str
    stamp_ns: int
    """The stamp of the frame that was looked at."""
    scores: FloatArray | None
    """(L,) independent probabilities, in the order of the recognizer's labels.

    None where the recognizer could not judge this person; `reason` then says why.
    """
    vad: Vad | None = None
    rationale: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.scores is None:
            if not self.reason:
                raise ValueError(f"{self.person_id} has neither scores nor a reason")
        elif not np.all((self.scores >= 0) & (self.scores <= 1)):
            raise ValueError(f"scores of {self.person_id} outside [0, 1]: {self.scores}")


class Status(IntEnum):
    """What an estimate is worth; the numbers are those of PersonEmotion.msg."""

    PENDING = 0
    """Nobody has judged this person yet."""
    ASSESSED = 1
    ABSTAINED = 2
    """Somebody looked and could not tell; the reason says why."""
    EXPIRED = 3
    """The last answer is older than `max_age` and is not repeated."""


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What is held to be true about one person now.

    Label, confidence and active are empty unless ASSESSED. Scores and what follows are there, too,
    where no label stood out.
    """

    track: Track
    status: Status
    reason: str = ""
    assessed_ns: int = 0
    """The stamp of the frame that was judged; 0 while PENDING."""
    label: str = ""
    """The leading label: the one furthest above its own threshold."""
    confidence: float = math.nan
    """The smoothed probability of the leading label."""
    active: tuple[str, ...] = ()
    """Every label above its threshold, furthest first."""
    scores: FloatArray | None = None
    """(L,) probabilities, smoothed over this person's answers."""
    raw_scores: FloatArray | None = None
    """(L,) probabilities of the newest answer alone."""
    vad: Vad | None = None
    rationale: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PeopleEstimate:
    """Everybody in the newest scene: what the node publishes and a replay writes down."""

    stamp_ns: int
    camera: str
    width: int
    height: int
    model: str
    calibration: str
    labels: tuple[str, ...]
    people: tuple[Estimate, ...]
