"""Decode image messages into frames: raw encodings, compressed images, serialized messages.

Messages are ROS objects or objects of `rosbags`: only their fields are read. Serialized messages
are deserialized by `rosbags`, which is several times faster than building the ROS message object in
Python and leaves the pixels in the received buffer.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from emotion_perception.core.errors import FrameError, UnknownEncodingError
from emotion_perception.core.values import Frame, ImageArray
from emotion_perception.io.video_stream import VideoDecoder, codec_of

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"


def deserialize(raw: bytes, msgtype: str) -> Any:
    """Deserialize an image message; its pixels are a view of the given bytes.

    Args:
        raw: The message in CDR.
        msgtype: `IMAGE` or `COMPRESSED_IMAGE`.

    Raises:
        FrameError: The bytes are not such a message.
    """
    try:
        return _typestore().deserialize_cdr(raw, msgtype)
    except SerdeError as error:
        raise FrameError(f"{len(raw)} bytes are not a valid {msgtype}: {error}") from error


def stamp_ns(message: Any) -> int:
    """Return the stamp of an image message in nanoseconds.

    Raises:
        FrameError: The stamp is before 1970, or its nanoseconds are not below 10^9.
    """
    stamp = message.header.stamp if hasattr(message, "header") else message.timestamp
    if stamp.sec < 0 or not 0 <= stamp.nanosec < 10**9:
        raise FrameError(
            f"header.stamp is {stamp.sec} s and {stamp.nanosec} ns, which is not a valid time"
        )
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def frame_from_image(message: Any) -> Frame:
    """Decode a `sensor_msgs/Image`.

    Raises:
        FrameError: Size, step and data length are inconsistent, or the image is empty.
        UnknownEncodingError: The encoding is not one of `ENCODINGS`.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = message.encoding
    if encoding not in ENCODINGS:
        raise UnknownEncodingError(f"encoding {encoding!r} is not one of {', '.join(ENCODINGS)}")
    pixel_bytes, to_rgb = ENCODINGS[encoding]
    if height == 0 or width == 0:
        raise FrameError(f"the image is empty: {width} x {height} pixels")
    if step < width * pixel_bytes:
        raise FrameError(
            f"step {step} is too short: "
            f"{width} pixels of {encoding} take {width * pixel_bytes} bytes"
        )
    data = np.frombuffer(message.data, np.uint8)
    if len(data) != height * step:
        raise FrameError(
            f"height {height} x step {step} is {height * step} bytes, "
            f"not {len(data)} as in the data"
        )
    rows = data.reshape(height, step)[:, : width * pixel_bytes].reshape(height, width, pixel_bytes)
    try:
        image = to_rgb(rows, bool(message.is_bigendian))
    except cv2.error as error:
        raise FrameError(f"{width} x {height} pixels of {encoding}: {error.err}") from error
    return Frame(image, stamp_ns(message), message.header.frame_id)


def frame_from_compressed(message: Any, video: VideoDecoder | None = None) -> Frame:
    """Decode a `CompressedImage`, `CompressedVideo` or `FFMPEGPacket`.

    Args:
        message: JPEG, PNG or another format that OpenCV reads, or an image of a video.
        video: The decoder that got each earlier message of the topic; None: videos are refused.

    Raises:
        FrameError: The data is empty, damaged, truncated or not an image, a depth image, or an
            image of a video that cannot be decoded.
    """
    image_format, data = compressed_data(message)
    if "compressedDepth" in image_format:
        raise FrameError(f"format {image_format!r} is a depth image; subscribe to the colour image")
    codec = codec_of(image_format, data)
    if not codec:
        image = decode_image(data)
    elif video is None:
        raise FrameError(
            f"the format {image_format!r} is {codec} video, and only a replay decodes videos; let "
            "the camera driver publish JPEG, or decode with `ros2 run image_transport republish`"
        )
    else:
        image = video.decode(codec, image_format, data)
    camera = message.header.frame_id if hasattr(message, "header") else message.frame_id
    return Frame(image, stamp_ns(message), camera)


def compressed_data(message: Any) -> tuple[str, ImageArray]:
    """Return the format of a compressed image or video packet, and its bytes as (N,) uint8."""
    image_format = message.format if hasattr(message, "format") else message.encoding
    return image_format, np.frombuffer(message.data, np.uint8)


def decode_image(data: ImageArray, apply_orientation: bool = False) -> ImageArray:
    """Decode the bytes of an image file to an (H, W, 3) RGB image.

    Args:
        data: The bytes, (N,) uint8.
        apply_orientation: Turn the image as its EXIF orientation says. Frames of cameras and images
            with annotated boxes are used as they are stored.

    Raises:
        FrameError: The data is empty, damaged, truncated or not an image.
    """
    head = data[:2].tobytes()
    if head == b"\xff\xd8":
        data = data[: _jpeg_length(data.tobytes())]
    flags = cv2.IMREAD_COLOR if apply_orientation else _STORED_PIXELS
    try:
        image = cv2.imdecode(data, flags) if len(data) else None
    except cv2.error as error:
        raise FrameError(f"{len(data)} bytes cannot be decoded: {error.err}") from error
    if image is None:
        raise FrameError(
            f"{len(data)} bytes that start with {head.hex() or 'nothing'} are not an image"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def _jpeg_length(data: bytes) -> int:
    """Return the number of bytes up to the end marker of a JPEG, from marker to marker.

    Data of any kind may follow the end marker: phones append videos. Segments may contain end
    markers, of thumbnails. OpenCV would fill the rest of a truncated JPEG with grey.

    Raises:
        FrameError: The JPEG is truncated.
    """
    position = 2
    while match := _JPEG_MARKER.search(data, position):
        position = match.end()
        marker = data[position - 1]
        if marker == 0xD9:  # end of image
            return position
        if marker not in (0x01, 0xD8):  # these have no segment
            position += int.from_bytes(data[position : position + 2], "big")
    raise FrameError(f"the JPEG is truncated: no end marker in {len(data)} bytes")


_STORED_PIXELS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""A marker, but not a restart marker or a byte 0xff of compressed data."""


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
"""Encoding of `sensor_msgs/Image` to bytes per pixel and the conversion to RGB."""
