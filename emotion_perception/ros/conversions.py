"""Convert frames to ROS messages and back, with the message classes of rclpy.

`io.message_codec` fills the message of the estimates, for the node and for replays alike.
"""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from emotion_perception.core.errors import FrameError, UnknownEncodingError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.labels import EMOTIC
from emotion_perception.core.text import printable
from emotion_perception.core.values import Frame, Lens, PeopleEstimate
from emotion_perception.io import message_codec
from emotion_perception.io.message_codec import people_from_msg as people_from_msg
from emotion_perception.io.message_codec import time_from_msg as time_from_msg
from emotion_perception.recognizers.calibrated import calibration_of
from emotion_perception.ros import BUILD_MESSAGES

try:
    from emotion_perception_msgs.msg import EmotionLabelInfo as EmotionLabelInfo
    from emotion_perception_msgs.msg import PersonEmotion
    from emotion_perception_msgs.msg import PersonEmotionArray as PersonEmotionArray
    from emotion_perception_msgs.srv import Explain as Explain
    from emotion_perception_msgs.srv import Settle as Settle
except ImportError as error:
    raise ImportError(
        "the messages of emotion_perception are not built or not sourced. "
        f"In the workspace: {BUILD_MESSAGES}"
    ) from error


def _floats(values: Any) -> array.array[float]:
    return array.array("f", np.asarray(values, np.float32).tobytes())


RCLPY = message_codec.MessageTypes(
    PersonEmotionArray, PersonEmotion, Header, Time, Point, RegionOfInterest, _floats
)


def people_to_msg(people: PeopleEstimate) -> PersonEmotionArray:
    """Convert estimates to the message of the node."""
    return message_codec.people_to_msg(people, RCLPY)


def label_info_to_msg(recognizer: Recognizer) -> EmotionLabelInfo:
    """Convert the labels of a recognizer, their definitions and calibration to a message."""
    calibration = calibration_of(recognizer)
    return EmotionLabelInfo(
        model=printable(recognizer.name),
        calibration=printable(recognizer.calibration),
        labels=list(recognizer.labels),
        definitions=[EMOTIC.get(label, "") for label in recognizer.labels],
        thresholds=_floats(recognizer.thresholds),
        slopes=_floats(calibration.slope if calibration else ()),
        offsets=_floats(calibration.offset if calibration else ()),
    )


def time_to_msg(stamp_ns: int) -> Time:
    """Convert nanoseconds to a `Time` message."""
    return message_codec.time_to_msg(stamp_ns, RCLPY)


def image_to_msg(frame: Frame) -> Image:
    """Convert a frame to an rgb8 `sensor_msgs/Image`."""
    return Image(
        header=Header(stamp=time_to_msg(frame.stamp_ns), frame_id=frame.camera),
        height=frame.height,
        width=frame.width,
        encoding="rgb8",
        step=frame.width * 3,
        # rclpy checks each element of any type other than array.
        data=array.array("B", frame.image.tobytes()),
    )


def compressed_to_msg(frame: Frame, quality: int = 90) -> CompressedImage:
    """Convert a frame to a JPEG in a `sensor_msgs/CompressedImage`."""
    import cv2

    bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=Header(stamp=time_to_msg(frame.stamp_ns), frame_id=frame.camera),
        format="rgb8; jpeg compressed bgr8",
        data=array.array("B", data.tobytes()),
    )


def lens_from_info(info: CameraInfo, width: int, height: int) -> Lens | None:
    """Return the lens of an image of this size; None if the camera is not calibrated.

    Args:
        info: Of the camera, for images of the size that it names, or of any if that is 0.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    # P belongs to the rectified image, which RViz projects with; some drivers leave it zero.
    fx, cx, fy, cy = (
        (info.p[0], info.p[2], info.p[5], info.p[6])
        if info.p[0] > 0
        else (info.k[0], info.k[2], info.k[4], info.k[5])
    )
    values = (fx, fy, cx, cy)
    if not (fx > 0 and fy > 0 and all(map(math.isfinite, values))):
        return None
    across = width / info.width if info.width else 1.0
    down = height / info.height if info.height else 1.0
    return Lens(*map(float, values)).scaled(across, down)


def frame_by_cv_bridge(raw: bytes) -> Frame:
    """Decode a serialized `sensor_msgs/Image` in an encoding that only cv_bridge supports.

    Raises:
        UnknownEncodingError: cv_bridge is not installed.
        FrameError: cv_bridge cannot read it either, whatever error it raises.
    """
    from rclpy.serialization import deserialize_message

    try:
        from cv_bridge import CvBridge
    except ImportError as error:
        raise UnknownEncodingError("cv_bridge, which might know it, is not installed") from error
    try:
        message = deserialize_message(raw, Image)
        image = np.asarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as error:  # TypeError, cv2.error, MemoryError and others besides its own
        raise FrameError(f"cv_bridge cannot read it: {type(error).__name__}: {error}") from error
    if image.dtype != np.uint8 or image.shape != (message.height, message.width, 3):
        raise FrameError(
            f"cv_bridge cannot read it: it returned {image.shape} of {image.dtype} for "
            f"{message.width} x {message.height} pixels"
        )
    return Frame(image, time_from_msg(message.header.stamp), message.header.frame_id)
