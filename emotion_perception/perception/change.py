"""Notice when a person, or what surrounds the person, visibly changes after the last question.

The newest frame is compared with the frame that was asked about, in up to three shrunken grey
views: the box of the person, the head, and the whole frame without the people. A view has changed
where too much of it cannot be explained by camera noise, exposure or a small movement:

1. The exposure of the newest view is matched by mean and standard deviation.
2. A pixel is explained if its value lies within the range of the 3 x 3 pixels around the same
   place in the other view, in both directions. This is the idea of background subtraction by the
   range of a neighbourhood (W4: Haritaoglu et al., PAMI 2000), with space in place of time: it
   absorbs noise, and edges that move by up to a pixel.
3. What is left is averaged over cells of 8 x 8 pixels, and each cell may be shifted by up to two
   pixels, as in block matching, so that a swaying person has not changed.
4. The largest cell counts, in grey levels: a new expression changes a small part of a person.

A blink or the extreme of a movement passes: a change counts when it has lasted `LASTS_NS`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import cv2
import numpy as np

from emotion_perception.core.values import Box, Frame, ImageArray, Scene, Track

LASTS_NS = 300_000_000
"""How long a difference has to last to be a change; a blink takes 0.1 to 0.3 s."""

_BODY, _HEAD, _SCENE = (32, 64), (32, 32), (64, 48)  # px, width and height of the views
_OVERSAMPLING = 2  # pixels of the image along each side of a pixel of a view that are averaged
_CELL = 8  # px
_SHIFTS = tuple((x, y) for y in (-2, 0, 2) for x in (-2, 0, 2))  # px; the ranges fill the gaps
_REACH = 2
_EDGE = _REACH + 2  # px along each side, where a movement shows what was outside
_HEAD_SHARE = 0.33  # height of the head's view in heights of the box, without a face
_FACE_MARGIN = 0.25  # around a face, in widths and heights of the face
_MARGIN = 0.1  # around people in the view of the scene, in widths and heights of the box
_SAME_PLACE = 0.5  # overlap (IoU) of two boxes below which the person has moved
_MAX_GAIN = 2.0
_AROUND = np.ones((3, 3), np.uint8)


class ChangeDetector:
    """Compares people with what they and their surroundings looked like when last asked about."""

    def __init__(self) -> None:
        """Start without people."""
        self._references: dict[str, _Reference] = {}
        self._differs_since_ns: dict[str, int] = {}
        """By person the first frame in a row that differs from the reference."""

    def ask(self, scene: Scene, people: Iterable[Track]) -> None:
        """Record that these people are asked about: compare them with this scene from now on."""
        surroundings = _ReferenceView(_shrunk(scene.frame, _SCENE), _around(scene))
        for person in people:
            self._references[person.person_id] = _Reference(scene.frame, person, surroundings)
            self._differs_since_ns.pop(person.person_id, None)

    def see(self, scene: Scene, people: Sequence[Track], threshold: float) -> frozenset[str]:
        """Return the ids of people who have changed, and of those who were never asked about.

        Args:
            scene: The newest; call it for each scene.
            people: Those of the scene to compare.
            threshold: Mean difference of a cell in grey levels from which it has changed.
        """
        frame, surroundings = scene.frame, _shrunk(scene.frame, _SCENE)
        around: dict[int, float] = {}
        """Difference of the surroundings by the identity of the view that a round shares."""
        before, self._differs_since_ns = self._differs_since_ns, {}
        changed = set()
        for person in people:
            person_id = person.person_id
            reference = self._references.get(person_id)
            if reference is None:
                changed.add(person_id)
                continue
            key = id(reference.surroundings)
            if key not in around:
                around[key] = reference.surroundings.difference(surroundings)
            if around[key] >= threshold or reference.differs(frame, person, threshold):
                since_ns = before.get(person_id, frame.stamp_ns)
                self._differs_since_ns[person_id] = since_ns
                if frame.stamp_ns - since_ns >= LASTS_NS:
                    changed.add(person_id)
        return frozenset(changed)

    def retain(self, person_ids: Collection[str]) -> None:
        """Forget all other people."""
        self._references = {i: r for i, r in self._references.items() if i in person_ids}

    def reset(self) -> None:
        """Forget all people."""
        self._references.clear()
        self._differs_since_ns.clear()


class _ReferenceView:
    """A shrunken grey view with which later ones are compared, at each shift."""

    def __init__(self, grey: ImageArray, mask: ImageArray | None = None) -> None:
        """Prepare a comparison.

        Args:
            grey: (H, W).
            mask: (H, W), 0 where nothing is compared, else 255; None: everything is compared.
        """
        self._mean, self._deviation = _moments(grey)
        self._grey = _shifted(grey)
        self._low, self._high = map(_shifted, _range(grey))
        mask = np.full_like(grey, 255) if mask is None else mask.copy()
        mask[:_EDGE] = mask[-_EDGE:] = mask[:, :_EDGE] = mask[:, -_EDGE:] = 0
        self._mask = _repeated(mask)

    def difference(self, newer: ImageArray) -> float:
        """Return the unexplained difference of the cell that differs most, in grey levels."""
        mean, deviation = _moments(newer)
        gain = min(max(self._deviation / max(deviation, 1.0), 1 / _MAX_GAIN), _MAX_GAIN)
        grey = np.asarray(
            cv2.addWeighted(newer, gain, newer, 0.0, self._mean - gain * mean), np.uint8
        )
        low, high = map(_repeated, _range(grey))
        difference = cv2.max(
            _outside(_repeated(grey), self._low, self._high), _outside(self._grey, low, high)
        )
        difference = cv2.bitwise_and(difference, self._mask)
        cells = cv2.boxFilter(
            difference, cv2.CV_32F, (_CELL, _CELL), borderType=cv2.BORDER_CONSTANT
        )
        best = cv2.reduce(cells.reshape(-1, len(_SHIFTS)), 1, cv2.REDUCE_MIN)
        return float(best.max())


class _Reference:
    """What a person looked like when last asked about."""

    def __init__(self, frame: Frame, person: Track, surroundings: _ReferenceView) -> None:
        self.surroundings = surroundings
        self._size, self._box = (frame.width, frame.height), person.box
        self._views = [
            (box, size, _ReferenceView(_shrunk(frame, size, box)))
            for box, size in ((person.box, _BODY), (_head(person), _HEAD))
            if box.clipped(*self._size).area > 0
        ]

    def differs(self, frame: Frame, person: Track, threshold: float) -> bool:
        """Return whether the person has moved, or differs in the place where the person was."""
        return (
            self._size != (frame.width, frame.height)
            or _overlap(self._box, person.box) < _SAME_PLACE
            or any(
                view.difference(_shrunk(frame, size, box)) >= threshold
                for box, size, view in self._views
            )
        )


def _shrunk(frame: Frame, size: tuple[int, int], box: Box | None = None) -> ImageArray:
    """Return a frame, or what a box in it shows, as a grey image of a size (width, height)."""
    part = frame.image if box is None else frame.image[box.pixels(frame.width, frame.height)]
    # Near people have more pixels than are needed: their cost would be that of the frame.
    samples = (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING)
    sampled = cv2.resize(part, samples, interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(sampled, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _head(person: Track) -> Box:
    """Return the box of the face with a margin, or the top of the person's box."""
    if person.face is not None:
        return _with_margin(person.face, _FACE_MARGIN)
    side = _HEAD_SHARE * person.box.height
    half = min(side, person.box.width) / 2
    middle = (person.box.left + person.box.right) / 2
    return Box(middle - half, person.box.top, middle + half, person.box.top + side)


def _with_margin(box: Box, share: float) -> Box:
    across, down = share * box.width, share * box.height
    return Box(box.left - across, box.top - down, box.right + across, box.bottom + down)


def _around(scene: Scene) -> ImageArray:
    """Return the mask of what surrounds the people in the view of a scene."""
    width, height = _SCENE
    mask = np.full((height, width), 255, np.uint8)
    x, y = width / scene.frame.width, height / scene.frame.height
    for person in scene.people:
        box = _with_margin(person.box, _MARGIN)
        box = Box(box.left * x, box.top * y, box.right * x, box.bottom * y)
        if box.clipped(width, height).area > 0:
            mask[box.pixels(width, height)] = 0
    return mask


def _overlap(a: Box, b: Box) -> float:
    """Return the intersection of two boxes over their union, 0..1."""
    shared = Box(
        max(a.left, b.left), max(a.top, b.top), min(a.right, b.right), min(a.bottom, b.bottom)
    ).area
    return shared / max(a.area + b.area - shared, 1e-9)


def _moments(grey: ImageArray) -> tuple[float, float]:
    """Return mean and standard deviation."""
    mean, deviation = cv2.meanStdDev(grey)
    return float(mean[0, 0]), float(deviation[0, 0])


def _range(grey: ImageArray) -> tuple[ImageArray, ImageArray]:
    """Return the smallest and the largest value of the 3 x 3 pixels around each pixel."""
    low, high = cv2.erode(grey, _AROUND), cv2.dilate(grey, _AROUND)
    return np.asarray(low, np.uint8), np.asarray(high, np.uint8)


def _repeated(grey: ImageArray) -> ImageArray:
    """Return the same image for each shift, (H, W, S)."""
    return np.asarray(cv2.merge([grey] * len(_SHIFTS)), np.uint8)


def _shifted(grey: ImageArray) -> ImageArray:
    """Return the image at each shift, (H, W, S)."""
    height, width = grey.shape
    wide = np.pad(grey, _REACH, mode="edge")
    return np.stack([wide[_REACH + y :, _REACH + x :][:height, :width] for x, y in _SHIFTS], axis=2)


def _outside(grey: ImageArray, low: ImageArray, high: ImageArray) -> ImageArray:
    """Return by how much each value is below or above a range; differences do not wrap."""
    return np.asarray(cv2.add(cv2.subtract(grey, high), cv2.subtract(low, grey)), np.uint8)
