"""Convert estimates to `PersonEmotionArray` messages and back.

The caller passes the message types: the node those of rclpy, a bag those of `rosbags`. Both have
the same fields, so that a replay writes the same messages that the node publishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emotion_perception.core.text import MAX_TEXT, printable
from emotion_perception.core.values import (
    Box,
    Cause,
    Estimate,
    PeopleEstimate,
    SourceStatus,
    Status,
    Track,
    Vad,
)

TOPIC = "/emotion_node/emotions"
"""The topic on which a node without a namespace publishes."""

PEOPLE = "emotion_perception_msgs/msg/PersonEmotionArray"
PERSON = "emotion_perception_msgs/msg/PersonEmotion"


@dataclass(frozen=True, slots=True)
class MessageTypes:
    """Constructors of the messages and of their array fields."""

    people: Callable[..., Any]
    person: Callable[..., Any]
    header: Callable[..., Any]
    time: Callable[..., Any]
    point: Callable[..., Any]
    roi: Callable[..., Any]
    floats: Callable[[Any], Any]
    """Makes a float32[] field, in the type that the messages take fastest."""
    sequence: Callable[[Sequence[Any]], Any] = list
    """Makes any other array field."""


def people_to_msg(people: PeopleEstimate, types: MessageTypes) -> Any:
    """Convert estimates to a `PersonEmotionArray` message."""
    return types.people(
        header=types.header(stamp=time_to_msg(people.stamp_ns, types), frame_id=people.camera),
        image_width=people.width,
        image_height=people.height,
        model=printable(people.model),
        calibration=printable(people.calibration),
        labels=types.sequence(people.labels),
        thresholds=types.floats(() if people.thresholds is None else people.thresholds),
        run_id=people.run_id,
        sequence=people.sequence,
        source_status=int(people.source_status),
        cause=int(people.cause),
        people=types.sequence(
            [_person_to_msg(e, people.width, people.height, types) for e in people.people]
        ),
    )


def people_from_msg(message: Any) -> PeopleEstimate:
    """Convert a `PersonEmotionArray` message to estimates.

    The message holds boxes in whole pixels and numbers as float32. One of version 0.1, as in older
    bags, has no run, sequence, thresholds, cause or source status; it was LIVE.
    """
    return PeopleEstimate(
        stamp_ns=time_from_msg(message.header.stamp),
        camera=message.header.frame_id,
        width=message.image_width,
        height=message.image_height,
        model=message.model,
        calibration=message.calibration,
        labels=tuple(message.labels),
        people=tuple(_person_from_msg(person) for person in message.people),
        source_status=SourceStatus(getattr(message, "source_status", SourceStatus.LIVE)),
        cause=Cause(getattr(message, "cause", Cause.FRAME)),
        run_id=getattr(message, "run_id", ""),
        sequence=getattr(message, "sequence", 0),
        thresholds=_array(getattr(message, "thresholds", ())),
    )


def time_to_msg(stamp_ns: int, types: MessageTypes) -> Any:
    """Convert nanoseconds to a `builtin_interfaces/Time` message."""
    return types.time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def time_from_msg(stamp: Any) -> int:
    """Convert a `builtin_interfaces/Time` message to nanoseconds."""
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def _person_to_msg(estimate: Estimate, width: int, height: int, types: MessageTypes) -> Any:
    track, vad = estimate.track, estimate.vad or Vad(math.nan, math.nan, math.nan)
    x, y, z = track.position
    return types.person(
        person_id=track.person_id,
        roi=_roi_to_msg(track.box.clipped(width, height), types),
        detection_confidence=track.confidence,
        position=types.point(x=x, y=y, z=z),
        status=int(estimate.status),
        reason=printable(estimate.reason),
        assessed_stamp=time_to_msg(estimate.assessed_ns, types),
        label=estimate.label,
        confidence=estimate.confidence,
        active=types.sequence(estimate.active),
        scores=types.floats(() if estimate.scores is None else estimate.scores),
        raw_scores=types.floats(() if estimate.raw_scores is None else estimate.raw_scores),
        valence=vad.valence,
        arousal=vad.arousal,
        dominance=vad.dominance,
        rationale=printable(estimate.rationale, MAX_TEXT, lines=True),
    )


def _person_from_msg(message: Any) -> Estimate:
    position = (message.position.x, message.position.y, message.position.z)
    vad = Vad(message.valence, message.arousal, message.dominance)
    return Estimate(
        track=Track(
            message.person_id,
            _box_from_msg(message.roi),
            message.detection_confidence,
            position,
        ),
        status=Status(message.status),
        reason=message.reason,
        assessed_ns=time_from_msg(message.assessed_stamp),
        label=message.label,
        confidence=message.confidence,
        active=tuple(message.active),
        scores=_array(message.scores),
        raw_scores=_array(message.raw_scores),
        vad=None if all(map(math.isnan, vad)) else vad,
        rationale=message.rationale,
    )


def _roi_to_msg(box: Box, types: MessageTypes) -> Any:
    left, top = math.floor(box.left), math.floor(box.top)
    return types.roi(
        x_offset=left,
        y_offset=top,
        width=math.ceil(box.right) - left,
        height=math.ceil(box.bottom) - top,
        do_rectify=False,
    )


def _box_from_msg(roi: Any) -> Box:
    return Box(roi.x_offset, roi.y_offset, roi.x_offset + roi.width, roi.y_offset + roi.height)


def _array(values: Any) -> Any:
    return np.asarray(values, np.float32) if len(values) else None
