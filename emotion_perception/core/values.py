"""The values that flow through the package, in the order in which they appear.

All of them are frozen. Arrays inside are shared, not copied, and must not be modified.
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
    """One camera image with its stamp."""

    image: ImageArray
    """(H, W, 3), RGB."""
    stamp_ns: int
    """The time of exposure, on the clock of the camera."""
    camera: str
    """The `frame_id` of the optical frame of the camera."""

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.image.shape[1])


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.bottom - self.top

    @property
    def area(self) -> float:
        """Area in square pixels; 0 if the box is empty."""
        return max(self.width, 0.0) * max(self.height, 0.0)

    def clipped(self, width: float, height: float) -> Box:
        """Return the part inside an image of this size; its area is 0 if there is none."""
        left, right = (min(max(x, 0.0), width) for x in (self.left, self.right))
        top, bottom = (min(max(y, 0.0), height) for y in (self.top, self.bottom))
        return Box(left, top, max(left, right), max(top, bottom))

    def pixels(self, width: int, height: int) -> tuple[slice, slice]:
        """Return the rows and columns of an image that the box covers.

        Raises:
            ValueError: no pixel of the image lies in the box.
        """
        inside = self.clipped(width, height)
        if not inside.area > 0:  # also catches NaN
            raise ValueError(f"{self} lies outside the image of {width} x {height} pixels")
        rows = slice(math.floor(inside.top), math.ceil(inside.bottom))
        columns = slice(math.floor(inside.left), math.ceil(inside.right))
        return rows, columns


class Lens(NamedTuple):
    """The pinhole model of a camera for images of one size, in pixels."""

    fx: float
    """Focal lengths."""
    fy: float
    cx: float
    """The principal point; the centre of the first pixel is 0."""
    cy: float

    def scaled(self, across: float, down: float) -> Lens:
        """Return the lens for an image of another size, as `image_proc` of ROS resizes it."""
        return Lens(self.fx * across, self.fy * down, self.cx * across, self.cy * down)


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """The boxes of a detector in one frame."""

    corners: FloatArray
    """(N, 4): left, top, right, bottom in pixels."""
    confidence: FloatArray
    """(N,), 0..1."""
    faces: FloatArray | None = None
    """(N, 4): the faces from which the boxes were made; None if the detector finds no faces."""
    ids: tuple[str, ...] | None = None
    """N ids that the detector has given to the people; None if it does not track them."""

    def __post_init__(self) -> None:
        if self.corners.shape != (len(self.confidence), 4):
            raise ValueError(
                f"cannot combine boxes of shape {self.corners.shape} with {len(self.confidence)} "
                "confidences: expected (N, 4) and (N,)"
            )
        if self.faces is not None and self.faces.shape != self.corners.shape:
            raise ValueError(
                f"cannot combine boxes of shape {self.corners.shape} with faces of shape "
                f"{self.faces.shape}: expected the same"
            )
        if self.ids is not None and len(self.ids) != len(self):
            raise ValueError(f"cannot combine {len(self)} boxes with {len(self.ids)} ids")

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.confidence)

    def where(self, kept: npt.NDArray[np.bool_]) -> Detections:
        """Return the detections of a mask (N,)."""
        faces = None if self.faces is None else self.faces[kept]
        ids = None if self.ids is None else tuple(np.asarray(self.ids, object)[kept])
        return Detections(self.corners[kept], self.confidence[kept], faces, ids)

    @classmethod
    def from_lists(
        cls, boxes: Sequence[Sequence[float]], confidence: Sequence[float]
    ) -> Detections:
        """Create detections from lists, which may be empty."""
        return cls(np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(confidence, np.float32))


@dataclass(frozen=True, slots=True)
class Track:
    """A person followed over frames, as seen in one frame."""

    person_id: str
    """A letter and a number ("p00012"), then the id of a source that tracks people itself
    ("p00012_7"): a valid token of a ROS name."""
    box: Box
    confidence: float
    """Confidence of the detection, 0..1."""
    position: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    """Position in the camera frame in metres; NaN without depth."""
    face: Box | None = None
    """The box of the face, if the detector found one."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One frame and the tracks in it."""

    frame: Frame
    people: tuple[Track, ...]


class Vad(NamedTuple):
    """Valence, arousal and dominance, each in -1..1.

    They go from negative to positive, from calm to agitated, and from without to in control.
    """

    valence: float
    arousal: float
    dominance: float


@dataclass(frozen=True, slots=True, eq=False)
class Assessment:
    """A recognizer's output for one person in one scene."""

    person_id: str
    stamp_ns: int
    """The stamp of the assessed frame."""
    scores: FloatArray | None
    """(L,) independent probabilities, in the order of the recognizer's labels.

    None if the recognizer could not assess the person; `reason` then says why.
    """
    vad: Vad | None = None
    rationale: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.scores is None:
            if not self.reason:
                raise ValueError(f"assessment of {self.person_id} has neither scores nor a reason")
        elif not np.all((self.scores >= 0) & (self.scores <= 1)):
            raise ValueError(f"scores of {self.person_id} outside [0, 1]: {self.scores}")


class Status(IntEnum):
    """The status of an estimate; the numbers are those of PersonEmotion.msg."""

    PENDING = 0
    """The person has not been assessed yet."""
    ASSESSED = 1
    ABSTAINED = 2
    """The recognizer gave no label; the reason says why."""
    EXPIRED = 3
    """The last assessment does not hold; the reason says why."""


class SourceStatus(IntEnum):
    """Whether the node sees; the numbers are those of PersonEmotionArray.msg."""

    INACTIVE = 0
    """The node takes no images."""
    LIVE = 1
    """Images arrive and are processed: an empty list means that no person is in view."""
    CAMERA_SILENT = 2
    """No image, or none that can be used, for `silence` seconds."""
    DETECTOR_FAILED = 3
    """Images arrive, but the detector has failed for `silence` seconds."""


class Cause(IntEnum):
    """Why a message is published; the numbers are those of PersonEmotionArray.msg."""

    FRAME = 0
    ASSESSMENT = 1
    EXPIRY = 2
    """Images stopped: every estimate expired."""
    HEARTBEAT = 3
    """Nothing new."""
    DEACTIVATED = 4


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What is published about one person at a time.

    Label, confidence and active labels are empty unless ASSESSED. Scores, VAD and rationale are
    also present if no label is above its threshold.
    """

    track: Track
    status: Status
    reason: str = ""
    assessed_ns: int = 0
    """The stamp of the assessed frame; 0 while PENDING."""
    label: str = ""
    """The leading label: the one furthest above its own threshold."""
    confidence: float = math.nan
    """The smoothed probability of the leading label."""
    active: tuple[str, ...] = ()
    """All labels above their thresholds, furthest first."""
    scores: FloatArray | None = None
    """(L,) probabilities, smoothed over the assessments of this person."""
    raw_scores: FloatArray | None = None
    """(L,) probabilities of the newest assessment alone."""
    vad: Vad | None = None
    rationale: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class PeopleEstimate:
    """The estimates of all people in the newest scene: what the node publishes."""

    stamp_ns: int
    camera: str
    width: int
    height: int
    model: str
    calibration: str
    labels: tuple[str, ...]
    people: tuple[Estimate, ...]
    source_status: SourceStatus = SourceStatus.LIVE
    cause: Cause = Cause.FRAME
    run_id: str = ""
    """Of the process or replay; with a `person_id` it is unique."""
    sequence: int = 0
    """The number of this message in the run, from 1; 0: not published."""
    thresholds: FloatArray | None = None
    """(L,) probabilities above which a label is active; None in a message of version 0.1."""
