"""Decode video streams of which each message holds one image: H.264, H.265, AV1 and VP9.

An image of a video refers to those before it, so a decoder has to get each message in order. PyAV,
which wraps FFmpeg, is optional and loaded when the first video arrives.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from emotion_perception.core.errors import FrameError
from emotion_perception.core.values import ImageArray
from emotion_perception.io.h264 import FrameNumbers
from emotion_perception.io.image_header import MAX_PIXELS, check_size

COMPRESSED_VIDEO = "foxglove_msgs/msg/CompressedVideo"
FOXGLOVE_IMAGE = "foxglove_msgs/msg/CompressedImage"
FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
MESSAGE_DEFINITIONS = {
    **dict.fromkeys(
        (COMPRESSED_VIDEO, FOXGLOVE_IMAGE),
        "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
    ),
    FFMPEG_PACKET: (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n"
        "uint8 flags\nbool is_bigendian\nuint8[] data\n"
    ),
}
"""Definitions of messages of other packages; `CompressedImage` of ROS may hold videos, too."""

_CODECS = {
    "H.264": (r"h\.?264|x264|avc", "h264"),
    "H.265": (r"h\.?265|x265|hevc", "hevc"),
    "AV1": (r"av1", "libdav1d"),
    "VP9": (r"vp9", "vp9"),
    "MPEG-4": (r"mpeg-?4", ""),
    "VP8": (r"vp8", ""),
}
"""Codec to what names it in a format, and the decoder of FFmpeg; empty: it does not report loss."""
_ROUNDED_UP = 1 << 20
"""Pixels that FFmpeg adds at most by rounding the width up to 64."""
_NOT_COLOURS = re.compile(r";(bayer_\w+|mono16|16UC\d|32FC\d)$")
"""The original encoding of a packet, where the decoded pixels are not those of a colour image."""


def codec_of(image_format: str, data: ImageArray) -> str:
    """Return the video codec of a message; empty if it holds a single image.

    Args:
        image_format: The field `format` or `encoding`, such as "h264" or "libx264;yuv420p;bgr8".
        data: The bytes, (N,) uint8. They decide where the format names no codec: a start code and
            the unit type of H.264 or H.265.
    """
    for codec, (pattern, _) in _CODECS.items():
        if re.search(rf"(?<![a-z0-9])(lib)?({pattern})", image_format.lower()):
            return codec
    start = re.match(rb"\x00{2,3}\x01(..)", data[:6].tobytes(), re.DOTALL)
    if start is None:
        return ""
    # H.265 has a second byte of header, which is 1 in the base layer.
    return "H.265" if start[1][1] == 1 and start[1][0] in (0x02, 0x26, 0x40, 0x46) else "H.264"


class VideoDecoder:
    """Decodes the messages of one topic, in order."""

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        """Load nothing yet.

        Args:
            max_pixels: The largest number of pixels of an image.
        """
        self._max_pixels = max_pixels
        self._codec = ""
        self._context: Any = None
        self._fed = 0
        self._numbers = FrameNumbers()
        self._is_incomplete = False
        """Whether an image is missing to which those up to the next key image refer."""

    def decode(self, codec: str, image_format: str, data: ImageArray) -> ImageArray:
        """Return the image of a message.

        Args:
            codec: As `codec_of` returns it.
            image_format: The field `format` or `encoding` of the message.
            data: The bytes, (N,) uint8.

        Returns:
            (H, W, 3) RGB.

        Raises:
            FrameError: PyAV is not installed, no key image came yet, the data is damaged, or the
                video delays its images.
        """
        image = self._next(codec, image_format, data)
        return np.ascontiguousarray(image.to_ndarray(format="rgb24"))

    def skip(self, codec: str, image_format: str, data: ImageArray) -> None:
        """Decode a message whose image is not wanted, for those after it.

        Raises:
            FrameError: As of `decode`.
        """
        self._next(codec, image_format, data)

    def _next(self, codec: str, image_format: str, data: ImageArray) -> Any:
        """Return the image of a message as a frame of PyAV."""
        what = f"the format {image_format!r} is {codec} video"
        if _NOT_COLOURS.search(image_format):
            raise FrameError(f"{what} of pixels that are not colours; record the colour image")
        av = _load_av(what)
        if codec != self._codec:
            self._context, self._codec = self._open(av, codec, what), codec
            self._numbers, self._is_incomplete = FrameNumbers(), False
        intra = av.video.frame.PictureType.I
        self._fed += 1
        packet = av.Packet(data.tobytes())
        packet.pts = self._fed
        try:
            frames = self._context.decode(packet)
        except (av.FFmpegError, ValueError, MemoryError, OverflowError) as error:
            # Also the answer of FFmpeg to all that comes before the first key image.
            self._is_incomplete = True
            width, height = self._context.width, self._context.height
            if width and height:  # FFmpeg may have read them before it refused the size
                check_size(width, height, self._max_pixels, f"an image of {codec}")
            raise FrameError(
                f"{what}, and this message cannot be decoded: it is damaged, or comes before the "
                "first key image"
            ) from error
        image = next((frame for frame in frames if frame.pts == self._fed), None)
        if codec == "H.264" and self._numbers.is_gap_before(bytes(packet)):
            self._is_incomplete = True
        if image is not None and image.key_frame and image.pict_type == intra:
            self._is_incomplete = False
        if image is None or image.is_corrupt or self._is_incomplete:
            raise FrameError(
                f"{what}, and this message gives no image: an earlier message is missing, or the "
                "video delays its images; record without B-frames (`tune: zerolatency`)"
            )
        check_size(image.width, image.height, self._max_pixels, f"an image of {codec}")
        return image

    def _open(self, av: Any, codec: str, what: str) -> Any:
        decoder = _CODECS[codec][1]
        if not decoder:
            raise FrameError(f"{what}, which is not supported; record H.264, H.265, AV1 or VP9")
        try:
            context = av.CodecContext.create(decoder, "r")
        except (av.FFmpegError, ValueError) as error:
            raise FrameError(f"{what}, which this PyAV does not decode ({error})") from error
        # FFmpeg rounds sizes up; `decode` checks that of the image.
        context.options = {"max_pixels": str(self._max_pixels + _ROUNDED_UP)}
        context.thread_count = 1  # more threads delay the images
        return context


def check_installed(what: str) -> None:
    """Check that videos can be decoded.

    Args:
        what: What needs it, for the error.

    Raises:
        FrameError: PyAV is not installed.
    """
    _load_av(what)


def _load_av(what: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise FrameError(
            f"{what}, which PyAV decodes; install it with `pip install av`, or record JPEG images"
        ) from error
    return av
