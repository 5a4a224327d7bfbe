"""Estimates and frames as ROS messages, and back."""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from emotion_perception.frames import FrameError, UnknownEncodingError
from emotion_perception.ros import BUILD_MESSAGES
from emotion_perception.values import Box, Estimate, Frame, PeopleEstimate, Status, Track, Vad

try:
    from emotion_perception_msgs.msg import PersonEmotion, PersonEmotionArray
    from emotion_perception_msgs.srv import Explain as Explain
except ImportError as error:
    raise ImportError(
        "the messages of emotion_perception are not built or not sourced. "
        f"In the workspace: {BUILD_MESSAGES}"
    ) from error


def people_to_msg(people: PeopleEstimate) -> PersonEmotionArray:
    """What the node publishes."""
    return PersonEmotionArray(
        header=Header(stamp=time_to_msg(people.stamp_ns), frame_id=people.camera),
        image_width=people.width,
        image_height=people.height,
        model=people.model,
        calibration=people.calibration,
        labels=list(people.labels),
        people=[_person_to_msg(e, people.width, people.height) for e in people.people],
    )


def people_from_msg(message: PersonEmotionArray) -> PeopleEstimate:
    """What a planner reads. Boxes come back in whole pixels, numbers as float32."""
    return PeopleEstimate(
        stamp_ns=time_from_msg(message.header.stamp),
        camera=message.header.frame_id,
        width=message.image_width,
        height=message.image_height,
        model=message.model,
        calibration=message.calibration,
        labels=tuple(message.labels),
        people=tuple(_person_from_msg(person) for person in message.people),
    )


def time_to_msg(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def time_from_msg(stamp: Time) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def image_to_msg(frame: Frame) -> Image:
    """A frame as an rgb8 `sensor_msgs/Image`."""
    return Image(
        header=Header(stamp=time_to_msg(frame.stamp_ns), frame_id=frame.camera),
        height=frame.height,
        width=frame.width,
        encoding="rgb8",
        step=frame.width * 3,
        # rclpy checks every element of anything but an array of its own type.
        data=array.array("B", frame.image.tobytes()),
    )


def compressed_to_msg(frame: Frame, quality: int = 90) -> CompressedImage:
    """A frame as a JPEG in a `sensor_msgs/CompressedImage`."""
    import cv2

    bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=Header(stamp=time_to_msg(frame.stamp_ns), frame_id=frame.camera),
        format="rgb8; jpeg compressed bgr8",
        data=array.array("B", data.tobytes()),
    )


def frame_by_cv_bridge(raw: bytes) -> Frame:
    """The frame in a serialised `sensor_msgs/Image` of an encoding that only cv_bridge knows.

    Raises:
        UnknownEncodingError: cv_bridge is not installed.
        FrameError: cv_bridge cannot read it either.
    """
    from rclpy.serialization import deserialize_message

    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise UnknownEncodingError("cv_bridge, which might know it, is not installed") from error
    message = deserialize_message(raw, Image)
    try:
        image = CvBridge().imgmsg_to_cv2(message, "rgb8")
    except CvBridgeError as error:
        raise FrameError(f"cv_bridge cannot read {message.encoding!r}: {error}") from error
    return Frame(
        np.asarray(image, np.uint8), time_from_msg(message.header.stamp), message.header.frame_id
    )


def _person_to_msg(estimate: Estimate, width: int, height: int) -> PersonEmotion:
    track, vad = estimate.track, estimate.vad or Vad(math.nan, math.nan, math.nan)
    x, y, z = track.position
    return PersonEmotion(
        person_id=track.person_id,
        roi=_roi_to_msg(track.box.clipped(width, height)),
        detection_confidence=track.confidence,
        position=Point(x=x, y=y, z=z),
        status=int(estimate.status),
        reason=estimate.reason,
        assessed_stamp=time_to_msg(estimate.assessed_ns),
        label=estimate.label,
        confidence=estimate.confidence,
        active=list(estimate.active),
        scores=_floats(estimate.scores),
        raw_scores=_floats(estimate.raw_scores),
        valence=vad.valence,
        arousal=vad.arousal,
        dominance=vad.dominance,
        rationale=estimate.rationale,
    )


def _person_from_msg(message: PersonEmotion) -> Estimate:
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


def _roi_to_msg(box: Box) -> RegionOfInterest:
    left, top = math.floor(box.left), math.floor(box.top)
    return RegionOfInterest(
        x_offset=left,
        y_offset=top,
        width=math.ceil(box.right) - left,
        height=math.ceil(box.bottom) - top,
    )


def _box_from_msg(roi: RegionOfInterest) -> Box:
    return Box(roi.x_offset, roi.y_offset, roi.x_offset + roi.width, roi.y_offset + roi.height)


def _floats(values: Any) -> array.array[float]:
    return array.array("f", [] if values is None else np.asarray(values, np.float32).tobytes())


def _array(values: Any) -> Any:
    return np.asarray(values, np.float32) if len(values) else None
