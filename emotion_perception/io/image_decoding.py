"""Decode image messages into frames: raw encodings, compressed images, serialized messages.

Messages are ROS objects or objects of `rosbags`: only their fields are read. Serialized messages
are deserialized by `rosbags`, which is several times faster than building the ROS message object in
Python and leaves the pixels in the received buffer.
"""

from __future__ import annotations

import functools
import re
import reprlib
import struct
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from emotion_perception.core.errors import FrameError, UnknownEncodingError
from emotion_perception.core.settings import SETTING_ENCODINGS, UNKNOWN_ENCODING
from emotion_perception.core.values import Frame, ImageArray
from emotion_perception.io import image_header
from emotion_perception.io.image_header import CAMERA_FORMATS, MAX_PIXELS, check_size
from emotion_perception.io.video_stream import MESSAGE_DEFINITIONS, VideoDecoder, codec_of

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
_STAMP_BEGIN, _STAMP_END = 4, 12  # bytes of a serialized message


def deserialize(raw: bytes, msgtype: str) -> Any:
    """Deserialize an image message; its pixels are a view of the given bytes.

    Args:
        raw: The message in CDR.
        msgtype: `IMAGE`, `COMPRESSED_IMAGE`, or one of `video_stream.MESSAGE_DEFINITIONS`.

    Raises:
        FrameError: The bytes are not such a message.
    """
    try:
        return _typestore().deserialize_cdr(raw, msgtype)
    except SerdeError as error:
        raise FrameError(f"{len(raw)} bytes are not a valid {msgtype}: {error}") from error


def serialized_stamp_ns(raw: bytes) -> int:
    """Return the stamp of a serialized image message, in nanoseconds, without reading the rest.

    Raises:
        FrameError: There are too few bytes, or the stamp is not a valid time.
    """
    if len(raw) < _STAMP_END:
        raise FrameError(f"{len(raw)} bytes are not a valid image message")
    # The second byte of CDR tells the order of bytes; the header with its stamp comes first.
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, _STAMP_BEGIN)
    return _valid_ns(sec, nanosec)


def stamp_ns(message: Any) -> int:
    """Return the stamp of an image message in nanoseconds.

    Raises:
        FrameError: The stamp is before 1970, or its nanoseconds are not below 10^9.
    """
    stamp = message.header.stamp if hasattr(message, "header") else message.timestamp
    return _valid_ns(int(stamp.sec), int(stamp.nanosec))


def _valid_ns(sec: int, nanosec: int) -> int:
    if sec < 0 or not 0 <= nanosec < 10**9:
        raise FrameError(f"header.stamp is {sec} s and {nanosec} ns, which is not a valid time")
    return sec * 10**9 + nanosec


def frame_from_image(
    message: Any, max_pixels: int = MAX_PIXELS, image_encoding: str = UNKNOWN_ENCODING
) -> Frame:
    """Decode a `sensor_msgs/Image`.

    Args:
        message: The message.
        max_pixels: The largest number of pixels.
        image_encoding: The meaning of 8UC1, 8UC2, 8UC3 and 8UC4, which have no channel order: one
            of `SETTING_ENCODINGS`.

    Raises:
        FrameError: Size, step and data length are inconsistent, the image is empty or too large, a
            depth image, or of an encoding without a meaning.
        UnknownEncodingError: The encoding has a name that is not in `ENCODINGS`.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = _meaning(message.encoding, image_encoding)
    if encoding not in ENCODINGS:
        check_size(width, height, max_pixels, f"an image in {_short(encoding)}")
        names = ", ".join(ENCODINGS)
        raise UnknownEncodingError(f"encoding {_short(encoding)} is not one of {names}")
    pixel_bytes, rows_per_row, to_rgb = ENCODINGS[encoding]
    if step < width * pixel_bytes:
        raise FrameError(
            f"step {step} is too short: "
            f"{width} pixels of {encoding} take {width * pixel_bytes} bytes"
        )
    if rows_per_row == 1.5 and (width % 2 or height % 2):
        raise FrameError(f"{width} x {height} pixels cannot be {encoding}: both have to be even")
    data, rows = np.frombuffer(message.data, np.uint8), int(height * rows_per_row)
    if len(data) != rows * step:
        raise FrameError(
            f"height {height} x step {step} is {rows * step} bytes, not {len(data)} as in the data"
        )
    check_size(width, height, max_pixels, f"an image in {encoding}")
    try:
        image = to_rgb(data.reshape(rows, step), width, height, bool(message.is_bigendian))
    except (cv2.error, MemoryError) as error:
        reason = getattr(error, "err", "") or "the memory does not suffice"
        raise FrameError(f"{width} x {height} pixels of {encoding}: {reason}") from error
    return Frame(image, stamp_ns(message), message.header.frame_id)


def _meaning(encoding: str, image_encoding: str) -> str:
    """Return the encoding that says what the pixels are."""
    match = re.fullmatch(r"(8U|8S|16U|16S|32S|32F|64F)(?:C([1-4]))?", encoding)
    if match is None:
        return encoding
    kind, channels = match[1], int(match[2] or 1)
    if (kind, channels) in (("16U", 1), ("32F", 1)):
        raise FrameError(f"encoding {encoding!r} is a depth image; subscribe to the colour image")
    choices = [name for name in SETTING_ENCODINGS if ENCODINGS[name].pixel_bytes == channels]
    if kind != "8U":
        raise FrameError(
            f"encoding {encoding!r} has no channel order and is not of 8 bits; let the camera "
            "driver publish a colour image such as rgb8"
        )
    if image_encoding not in choices:
        raise FrameError(
            f"encoding {encoding!r} has no channel order; set image_encoding to the meaning of its "
            f"{channels} bytes per pixel ({', '.join(choices)}), not {image_encoding!r}"
        )
    return image_encoding


def _short(encoding: str) -> str:
    return reprlib.repr(encoding)


def depth_from_image(
    message: Any, max_pixels: int = MAX_PIXELS
) -> tuple[npt.NDArray[np.uint16 | np.float32], float]:
    """Return the pixels of a depth image and the metres per unit.

    Args:
        message: A `sensor_msgs/Image` in 16UC1 or mono16, in millimetres, or 32FC1, in metres.
        max_pixels: The largest number of pixels.

    Returns:
        The (H, W) pixels, a view of the message, and the factor.

    Raises:
        FrameError: It is not a depth image, too large, or its size and data are inconsistent.
    """
    if message.encoding not in DEPTH_ENCODINGS:
        raise FrameError(
            f"encoding {_short(message.encoding)} is not that of a depth image: expected "
            f"{', '.join(DEPTH_ENCODINGS)}"
        )
    kind, metres = DEPTH_ENCODINGS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    height, width, step = int(message.height), int(message.width), int(message.step)
    check_size(width, height, max_pixels, f"a depth image in {message.encoding}")
    data = np.frombuffer(message.data, np.uint8)
    if step < width * dtype.itemsize or len(data) != height * step:
        raise FrameError(
            f"a depth image of {width} x {height} pixels in {message.encoding} has a step of "
            f"{step} and {len(data)} bytes of data, which do not fit"
        )
    rows = data.reshape(height, step)[:, : width * dtype.itemsize]
    return rows.view(dtype), metres


DEPTH_ENCODINGS = {"16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0)}
"""Encoding of a depth image to the type of its pixels and the metres per unit (REP 118).

`mono16` is what some drivers call 16UC1.
"""


def frame_from_compressed(
    message: Any, video: VideoDecoder | None = None, max_pixels: int = MAX_PIXELS
) -> Frame:
    """Decode a `CompressedImage`, `CompressedVideo` or `FFMPEGPacket`.

    Args:
        message: JPEG, PNG or an image of a video.
        video: The decoder that got each earlier message of the topic; None: videos are refused.
        max_pixels: The largest number of pixels of a JPEG or PNG.

    Raises:
        FrameError: The data is empty, damaged, truncated, too large or not a JPEG or PNG, a depth
            image, or an image of a video that cannot be decoded.
    """
    image_format, data = compressed_data(message)
    if "compressedDepth" in image_format:
        raise FrameError(
            f"format {_short(image_format)} is a depth image; subscribe to the colour image"
        )
    codec = codec_of(image_format, data)
    if not codec:
        image = decode_image(data, max_pixels=max_pixels)
    elif video is None:
        raise FrameError(
            f"the format {_short(image_format)} is {codec} video, which image_transport = "
            "compressed does not decode; let the camera driver publish JPEG, or a video on a topic "
            "for ffmpeg or foxglove"
        )
    else:
        image = video.decode(codec, image_format, data)
    camera = message.header.frame_id if hasattr(message, "header") else message.frame_id
    return Frame(image, stamp_ns(message), camera)


def skip_compressed(message: Any, video: VideoDecoder) -> None:
    """Decode an image of a video that is not wanted, for those after it.

    Raises:
        FrameError: It cannot be decoded.
    """
    image_format, data = compressed_data(message)
    if codec := codec_of(image_format, data):
        video.skip(codec, image_format, data)


def compressed_data(message: Any) -> tuple[str, ImageArray]:
    """Return the format of a compressed image or video packet, and its bytes as (N,) uint8."""
    image_format = message.format if hasattr(message, "format") else message.encoding
    return image_format, np.frombuffer(message.data, np.uint8)


def decode_image(
    data: ImageArray,
    apply_orientation: bool = False,
    formats: Collection[str] = CAMERA_FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> ImageArray:
    """Decode the bytes of an image file to an (H, W, 3) RGB image.

    Format and size are read from the header first, so that a small file cannot take the memory and
    the time of an image above `max_pixels`.

    Args:
        data: The bytes, (N,) uint8.
        apply_orientation: Turn the image as its EXIF orientation says. Frames of cameras and images
            with annotated boxes are used as they are stored.
        formats: Accepted formats, of `image_header.FILE_FORMATS`.
        max_pixels: The largest number of pixels.

    Raises:
        FrameError: The data is empty, damaged, truncated, too large, or not in one of the formats.
    """
    checked = image_header.check(memoryview(np.ascontiguousarray(data).data), max_pixels, formats)
    flags = cv2.IMREAD_COLOR if apply_orientation else _STORED_PIXELS
    try:
        image = cv2.imdecode(np.frombuffer(checked, np.uint8), flags)
        if image is None:
            raise FrameError(f"the image of {len(data)} bytes is damaged: OpenCV cannot decode it")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]
    except (cv2.error, MemoryError) as error:
        reason = getattr(error, "err", "") or "the memory does not suffice"
        raise FrameError(f"{len(data)} bytes cannot be decoded: {reason}") from error


_STORED_PIXELS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


@functools.cache
def _typestore() -> Any:
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in MESSAGE_DEFINITIONS.items():
        store.register(get_types_from_msg(text, name))
    return store


_ToRgb = Callable[[ImageArray, int, int, bool], ImageArray]
# rows (N, step), width, height, big-endian -> RGB (height, width, 3)


class _Encoding(NamedTuple):
    pixel_bytes: int
    """Bytes per pixel, in the first plane."""
    rows_per_row: float
    """Rows of `step` bytes per row of the image, those of further planes included."""
    to_rgb: _ToRgb


def _interleaved(pixel_bytes: int, code: int | None) -> _Encoding:
    """Return an encoding of one plane, converted by OpenCV; None: it is RGB."""

    def to_rgb(rows: ImageArray, width: int, height: int, _: bool) -> ImageArray:
        pixels = rows[:, : width * pixel_bytes].reshape(height, width, pixel_bytes)
        if code is None:
            return np.ascontiguousarray(pixels)
        return cv2.cvtColor(pixels, code)  # type: ignore[return-value]

    return _Encoding(pixel_bytes, 1, to_rgb)


def _sixteen_bits(code: int) -> _Encoding:
    """Return an encoding of one channel of 16 bits, of which the high 8 are used."""

    def to_rgb(rows: ImageArray, width: int, height: int, big_endian: bool) -> ImageArray:
        high = rows[:, (0 if big_endian else 1) : width * 2 : 2]
        return cv2.cvtColor(np.ascontiguousarray(high), code)  # type: ignore[return-value]

    return _Encoding(2, 1, to_rgb)


def _half_chroma(code: int) -> _Encoding:
    """Return an encoding of a luma plane and a plane of chroma pairs of half the resolution."""

    def to_rgb(rows: ImageArray, width: int, height: int, _: bool) -> ImageArray:
        return cv2.cvtColor(np.ascontiguousarray(rows[:, :width]), code)  # type: ignore[return-value]

    return _Encoding(1, 1.5, to_rgb)


def _nv24_to_rgb(rows: ImageArray, width: int, height: int, _: bool) -> ImageArray:
    """Convert a luma plane and a plane of chroma pairs of the same resolution.

    A row of chroma takes two rows of `step` bytes.
    """
    chroma = rows[height:].reshape(height, -1)[:, : 2 * width].reshape(height, width, 2)
    luma = np.maximum(rows[:height, :width], 16)
    return cv2.transform(cv2.merge([luma, chroma]), _YUV_TO_RGB)  # type: ignore[return-value]


# BT.601 with luma in 16..235 and chroma in 16..240, as OpenCV converts the other YUV encodings.
_Y, _VR, _UG, _VG, _UB = 1.164, 1.596, -0.391, -0.813, 2.018
_YUV_TO_RGB = np.array(
    [
        [_Y, 0, _VR, -16 * _Y - 128 * _VR],
        [_Y, _UG, _VG, -16 * _Y - 128 * (_UG + _VG)],
        [_Y, _UB, 0, -16 * _Y - 128 * _UB],
    ],
    np.float32,
)

ENCODINGS: dict[str, _Encoding] = {
    "rgb8": _interleaved(3, None),
    "bgr8": _interleaved(3, cv2.COLOR_BGR2RGB),
    "rgba8": _interleaved(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _interleaved(4, cv2.COLOR_BGRA2RGB),
    "mono8": _interleaved(1, cv2.COLOR_GRAY2RGB),
    "mono16": _sixteen_bits(cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": _interleaved(1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": _interleaved(1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": _interleaved(1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": _interleaved(1, cv2.COLOR_BayerGRBG2RGB),
    "bayer_rggb16": _sixteen_bits(cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr16": _sixteen_bits(cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg16": _sixteen_bits(cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg16": _sixteen_bits(cv2.COLOR_BayerGRBG2RGB),
    "uyvy": _interleaved(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": _interleaved(2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422": _interleaved(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _interleaved(2, cv2.COLOR_YUV2RGB_YUYV),
    "nv12": _half_chroma(cv2.COLOR_YUV2RGB_NV12),
    "nv21": _half_chroma(cv2.COLOR_YUV2RGB_NV21),
    "nv24": _Encoding(1, 3, _nv24_to_rgb),
}
"""Encoding of `sensor_msgs/Image` to its layout and the conversion to RGB.

YUV is BT.601 in the limited range (luma 16..235). `nv12`, `nv21` and `nv24` have `height` rows of
luma, then the chroma; `nv12` is the name of Isaac ROS, the others are those of `sensor_msgs`.
"""
