"""From image messages to frames: encodings, compressed pictures, serialised bytes.

The messages may be ROS objects or what `rosbags` deserialises: only their fields are read. A
serialised message is decoded by `rosbags` because that is several times cheaper than building the
message object in Python, and its pixels stay a view of the received bytes.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from emotion_perception.core.errors import FrameError, UnknownEncodingError
from emotion_perception.core.values import Frame, ImageArray

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"


def deserialize(raw: bytes, kind: str) -> Any:
    """The message in these CDR bytes, its pixels a view of them.

    Args:
        kind: `IMAGE` or `COMPRESSED_IMAGE`.

    Raises:
        FrameError: the bytes are not such a message.
    """
    try:
        return _typestore().deserialize_cdr(raw, kind)
    except (SerdeError, ValueError, IndexError, TypeError, AssertionError, struct.error) as error:
        raise FrameError(
            f"{len(raw)} bytes are no {kind}: {error or type(error).__name__}"
        ) from error


def stamp_ns(message: Any) -> int:
    """The time in a message's header, in nanoseconds.

    Raises:
        FrameError: it lies before 1970 or has more than a second of nanoseconds.
    """
    stamp = message.header.stamp
    if stamp.sec < 0 or not 0 <= stamp.nanosec < 10**9:
        raise FrameError(f"header.stamp is {stamp.sec} s and {stamp.nanosec} ns: no time")
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def frame_from_image(message: Any) -> Frame:
    """The frame in a `sensor_msgs/Image`.

    Raises:
        FrameError: size, step and length contradict each other, or the picture is empty.
        UnknownEncodingError: the encoding is not one of `ENCODINGS`.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = message.encoding
    if encoding not in ENCODINGS:
        raise UnknownEncodingError(f"encoding {encoding!r} is none of {', '.join(ENCODINGS)}")
    pixel_bytes, to_rgb = ENCODINGS[encoding]
    if height == 0 or width == 0:
        raise FrameError(f"the picture is empty: {width} x {height} pixels")
    if step < width * pixel_bytes:
        raise FrameError(
            f"step {step} is too short: "
            f"{width} pixels of {encoding} take {width * pixel_bytes} bytes"
        )
    data = np.frombuffer(message.data, np.uint8)
    if len(data) != height * step:
        raise FrameError(
            f"height {height} x step {step} is {height * step} bytes, the message has {len(data)}"
        )
    rows = data.reshape(height, step)[:, : width * pixel_bytes].reshape(height, width, pixel_bytes)
    try:
        image = to_rgb(rows, bool(message.is_bigendian))
    except cv2.error as error:
        raise FrameError(f"{width} x {height} pixels of {encoding}: {error.err}") from error
    return Frame(image, stamp_ns(message), message.header.frame_id)


def frame_from_compressed(message: Any) -> Frame:
    """The frame in a `sensor_msgs/CompressedImage`: JPEG, PNG or what else OpenCV reads.

    Raises:
        FrameError: the data is empty, damaged, cut short or no picture.
    """
    if "compressedDepth" in message.format:
        raise FrameError(
            f"format {message.format!r} is a depth picture: subscribe to the colour one"
        )
    image = decode_image(np.frombuffer(message.data, np.uint8))
    return Frame(image, stamp_ns(message), message.header.frame_id)


def decode_image(data: ImageArray) -> ImageArray:
    """The (H, W, 3) RGB picture in the bytes of a picture file.

    Raises:
        FrameError: as for `frame_from_compressed`.
    """
    head = data[:2].tobytes()
    if head == b"\xff\xd8" and _is_cut_short(data.tobytes()):
        raise FrameError(f"the JPEG is cut short: no end marker in {len(data)} bytes")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error as error:
        raise FrameError(f"{len(data)} bytes cannot be decoded: {error.err}") from error
    if image is None:
        raise FrameError(
            f"{len(data)} bytes that start with {head.hex() or 'nothing'} are no picture"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _is_cut_short(jpeg: bytes) -> bool:
    """Whether no end marker follows the last scan: OpenCV fills what is missing with grey.

    Not only the last bytes count: phones append data of their own to their pictures.
    """
    return jpeg.find(b"\xff\xd9", jpeg.rfind(b"\xff\xda")) < 0


@functools.cache
def _typestore() -> Any:
    return get_typestore(Stores.ROS2_JAZZY)


_ToRgb = Callable[
    [ImageArray, bool], ImageArray
]  # pixels (H, W, bytes a pixel), big-endian -> (H, W, 3)


def _cvt(code: int) -> _ToRgb:
    return lambda pixels, _: cv2.cvtColor(pixels, code)  # type: ignore[return-value]


def _rgb(pixels: ImageArray, _: bool) -> ImageArray:
    return np.ascontiguousarray(pixels)


def _mono16(pixels: ImageArray, big_endian: bool) -> ImageArray:
    return cv2.cvtColor(
        np.ascontiguousarray(pixels[..., 0 if big_endian else 1]), cv2.COLOR_GRAY2RGB
    )  # type: ignore[return-value]


ENCODINGS: dict[str, tuple[int, _ToRgb]] = {
    "rgb8": (3, _rgb),
    "bgr8": (3, _cvt(cv2.COLOR_BGR2RGB)),
    "rgba8": (4, _cvt(cv2.COLOR_RGBA2RGB)),
    "bgra8": (4, _cvt(cv2.COLOR_BGRA2RGB)),
    "mono8": (1, _cvt(cv2.COLOR_GRAY2RGB)),
    "mono16": (2, _mono16),
    "bayer_rggb8": (1, _cvt(cv2.COLOR_BayerRGGB2RGB)),
    "bayer_bggr8": (1, _cvt(cv2.COLOR_BayerBGGR2RGB)),
    "bayer_gbrg8": (1, _cvt(cv2.COLOR_BayerGBRG2RGB)),
    "bayer_grbg8": (1, _cvt(cv2.COLOR_BayerGRBG2RGB)),
    "uyvy": (2, _cvt(cv2.COLOR_YUV2RGB_UYVY)),
    "yuyv": (2, _cvt(cv2.COLOR_YUV2RGB_YUYV)),
    "yuv422": (2, _cvt(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (2, _cvt(cv2.COLOR_YUV2RGB_YUYV)),
}
"""Encoding of `sensor_msgs/Image` to bytes a pixel and the conversion to RGB."""
