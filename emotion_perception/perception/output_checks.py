"""Check what detectors and recognizers return, before it becomes state or a message.

Both are plugins that anyone can write. A wrong number would stay in the smoothing for ever, and one
of a wrong type ends the process in the C code of ROS.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.text import printable
from emotion_perception.core.values import Assessment, Detections, FloatArray, Scene, Track, Vad

MAX_RATIONALE = 2000
"""Characters of a rationale that are kept."""

MAX_REASON = 300
"""Characters of a reason that are kept."""

_ROUNDING = 1e-6


def checked_assessments(
    answer: Any, scene: Scene, people: Sequence[Track], labels: int
) -> tuple[list[Assessment], dict[str, str]]:
    """Return the valid assessments of a round in the order of people, and why others are not.

    Args:
        answer: What `Recognizer.assess` returned.
        scene: The scene that was assessed.
        people: The people who were asked about.
        labels: The number of labels of the recognizer.

    Returns:
        The assessments, with Python's own numbers, and the reason by person of wrong ones.

    Raises:
        RecognizerError: It is not one assessment per person, so that it cannot be told which person
            the values belong to.
    """
    if not isinstance(answer, list | tuple):
        raise RecognizerError(f"the recognizer returned {_kind(answer)}, not a list of assessments")
    strays = [item for item in answer if not isinstance(item, Assessment)]
    if strays:
        raise RecognizerError(f"the recognizer returned {_kind(strays[0])} as an assessment")
    asked = [person.person_id for person in people]
    ids = [item.person_id for item in answer]
    if sorted(map(str, ids)) != sorted(asked):
        raise RecognizerError(
            f"the recognizer returned {len(ids)} assessments, of {printable(ids, 100)}: expected "
            f"one of each of {printable(asked, 100)}"
        )
    valid, wrong = [], {}
    for item in sorted(answer, key=lambda item: asked.index(item.person_id)):
        try:
            valid.append(_checked_assessment(item, scene.frame.stamp_ns, labels))
        except (ValueError, TypeError, OverflowError) as error:
            wrong[item.person_id] = printable(f"wrong answer: {error}", MAX_REASON)
    return valid, wrong


def _checked_assessment(item: Assessment, stamp_ns: int, labels: int) -> Assessment:
    """Return the assessment with Python's own numbers and texts of bounded length.

    Raises:
        ValueError, TypeError: A value is wrong.
    """
    if item.stamp_ns != stamp_ns:
        raise ValueError(f"the stamp is {item.stamp_ns!r}, not {stamp_ns} as of the scene")
    rationale, reason = item.rationale, item.reason
    if not isinstance(rationale, str | None):
        raise TypeError(f"the rationale is {_kind(rationale)}, not text")
    if not isinstance(reason, str):
        raise TypeError(f"the reason is {_kind(reason)}, not text")
    return dataclasses.replace(
        item,
        stamp_ns=stamp_ns,
        scores=None if item.scores is None else _checked_scores(item.scores, labels),
        vad=None if item.vad is None else _checked_vad(item.vad),
        rationale=None if rationale is None else printable(rationale, MAX_RATIONALE, lines=True),
        reason=printable(reason, MAX_REASON),
    )


def _checked_scores(scores: Any, labels: int) -> FloatArray:
    array = np.asarray(scores)
    if array.shape != (labels,):
        raise ValueError(f"has scores of shape {array.shape}, expected ({labels},)")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"the scores are of type {array.dtype}, not numbers")
    if not np.all((array >= 0) & (array <= 1)):  # also refuses NaN
        raise ValueError("a score is outside 0..1 or not a number")
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def _checked_vad(vad: Any) -> Vad:
    values = list(vad)
    if len(values) != 3 or not all(isinstance(v, Real | np.number) for v in values):
        raise ValueError(f"valence, arousal and dominance are {vad!r}, not three numbers")
    numbers = [float(value) for value in values]
    if not all(abs(number) <= 1 + _ROUNDING for number in numbers):  # also refuses NaN
        raise ValueError(f"valence, arousal or dominance is outside -1..1: {vad!r}")
    return Vad(*(min(max(number, -1.0), 1.0) for number in numbers))


def checked_detections(detections: Any, width: int, height: int) -> tuple[Detections, str]:
    """Return the valid detections of a frame, and what is wrong with the others; empty: nothing.

    A box may lie partly or wholly outside the frame, by at most the size of the frame.

    Args:
        detections: What `Detector.detect` returned.
        width: The width of the frame in pixels.
        height: The height of the frame in pixels.

    Raises:
        TypeError: The detector returned something else.
    """
    if not isinstance(detections, Detections):
        raise TypeError(f"the detector returned {_kind(detections)}, not Detections")
    corners, confidence = (
        np.asarray(array, np.float64) for array in (detections.corners, detections.confidence)
    )
    left, top, right, bottom = corners.T
    usable = np.isfinite(corners).all(axis=1) & (right > left) & (bottom > top)
    usable &= (confidence >= 0) & (confidence <= 1)
    usable &= (left >= -width) & (right <= 2 * width) & (top >= -height) & (bottom <= 2 * height)
    if not usable.all():
        first = int(np.argmin(usable))
        box, sure = ", ".join(f"{side:g}" for side in corners[first]), confidence[first]
        fault = f"the box ({box}) with confidence {sure:g} is not a detection"
        return _unique(detections.where(usable))[0], fault
    return _unique(detections)


def _unique(detections: Detections) -> tuple[Detections, str]:
    """Return the detections without those whose id occurs before, and the first such id."""
    ids = detections.ids or ()
    first = np.asarray([not i or ids.index(i) == n for n, i in enumerate(ids)], bool)
    if first.all():
        return detections, ""
    repeated = ids[int(np.argmin(first))]
    return detections.where(first), f"the id {printable(repeated, 50)!r} occurs twice"


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
