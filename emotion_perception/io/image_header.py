"""Read format and size of an image file from its header, before a decoder allocates memory.

The size that a header states decides how much memory and time a decoder takes: a JPEG of 631 bytes
can claim 30000 x 30000 pixels. JPEG and PNG can also take more than their pixels need, by many
scans, animations, compressed texts or pixel data behind the last row; `check` refuses these, too.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator

from emotion_perception.core.errors import FrameError

MAX_PIXELS = 50_000_000
"""Default of the largest number of pixels of an image."""

CAMERA_FORMATS = ("JPEG", "PNG")
"""Formats of the images of cameras and bags."""

FILE_FORMATS = (*CAMERA_FORMATS, "WebP", "BMP", "TIFF")
"""Formats of image files that the user names, as those of data sets."""


def check(data: memoryview, max_pixels: int, formats: Collection[str]) -> memoryview | bytes:
    """Return the part of an image file that a decoder needs, if it may be decoded.

    Args:
        data: The bytes of the file.
        max_pixels: The largest number of pixels.
        formats: Accepted formats, of `FILE_FORMATS`.

    Raises:
        FrameError: The data is not an image, is of another format, states too many pixels or none,
            is truncated, or would take more memory or time than its pixels.
    """
    name = _format_of(data)
    if name not in formats:
        start = bytes(data[:2]).hex() or "nothing"
        reason = f"of {name}: only {_one_of(formats)} can be decoded here"
        raise FrameError(
            f"{len(data)} bytes {reason if name else f'that start with {start} are not an image'}"
        )
    try:
        check_size(*_SIZES[name](data), max_pixels, f"a {name}")
        if name == "JPEG":
            return _checked_jpeg(data)
        if name == "PNG":
            return _checked_png(data, max_pixels)
    except (struct.error, IndexError) as error:
        raise FrameError(
            f"the {name} is truncated and cannot be decoded: it has {len(data)} bytes"
        ) from error
    return data


def check_size(width: int, height: int, max_pixels: int, what: str) -> None:
    """Refuse an image without pixels, or with too many.

    Raises:
        FrameError: It is refused.
    """
    if width <= 0 or height <= 0:
        raise FrameError(f"the image is empty: {width} x {height} pixels")
    if width * height > max_pixels:
        raise FrameError(
            f"cannot decode {what} of {width} x {height} pixels: the limit is max_pixels = "
            f"{max_pixels}; use smaller images, or raise the limit"
        )


# --- Formats -------------------------------------------------------------------------------------

_MAGIC = {
    "JPEG": rb"\xff\xd8",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WebP": rb"RIFF....WEBP",
    "BMP": rb"BM",
    "TIFF": rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]",
    "GIF": rb"GIF8[79]a",
    "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\x00\x00\x00\x0cJXL ",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(?:hei|hev|mif|msf)",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?R",
    "PNM": rb"P[1-7fF]\s",
    "Sun raster": rb"\x59\xa6\x6a\x95",
}
"""Name of a format to how its files begin; those that OpenCV reads are refused by name."""


def _format_of(data: memoryview) -> str:
    head = bytes(data[:16])
    matches = (name for name, magic in _MAGIC.items() if re.match(magic, head, re.DOTALL))
    return next(matches, "")


def _one_of(names: Collection[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _png_size(data: memoryview) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if (length, kind) != (13, b"IHDR"):
        raise FrameError("the PNG is damaged: it does not begin with its size")
    return width, height


def _webp_size(data: memoryview) -> tuple[int, int]:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(data[i : i + 3], "little") for i in (24, 27))  # type: ignore[return-value]
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise FrameError(f"the WebP is damaged: its first part is {kind!r}")


def _bmp_size(data: memoryview) -> tuple[int, int]:
    (header_size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
    return width, abs(height)  # a negative height means that the first row is the top one


_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_SAMPLES = 256, 257, 258, 277
_TIFF_ROWS_PER_STRIP, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 278, 322, 323
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def _tiff_size(data: memoryview) -> tuple[int, int]:
    """Return width and height of the larger of the image and one of its tiles."""
    tags = dict(_tiff_tags(data))
    samples, bits = tags.get(_TIFF_SAMPLES, 1), tags.get(_TIFF_BITS, 1)
    if samples > 4 or bits > 16:
        raise FrameError(
            f"the TIFF has {samples} samples of {bits} bits per pixel; save it with at most 4 of "
            "at most 16 bits"
        )
    size = tags.get(_TIFF_WIDTH, 0), tags.get(_TIFF_HEIGHT, 0)
    tile = tags.get(_TIFF_TILE_WIDTH, 0), tags.get(_TIFF_TILE_HEIGHT, 0)
    return max(size, tile, key=lambda sides: sides[0] * sides[1]) if all(size) else size


def _tiff_tags(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield number and first value of the integer tags of the first image."""
    order = "<" if data[0] == ord("I") else ">"
    big = 43 in (data[2], data[3])
    count_code, entry_code, entry_size = ("Q", "HHQ", 20) if big else ("H", "HHI", 12)
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_code, data, start)
    start += struct.calcsize(order + count_code)
    for place in range(start, start + min(count, 1000) * entry_size, entry_size):
        tag, kind, values = struct.unpack_from(order + entry_code, data, place)
        if code := _TIFF_INTEGERS.get(kind):
            value = place + struct.calcsize(order + entry_code)
            if values * struct.calcsize(order + code) > (8 if big else 4):  # they are elsewhere
                (value,) = struct.unpack_from(order + ("Q" if big else "I"), data, value)
            yield tag, struct.unpack_from(order + code, data, value)[0]


# --- JPEG ----------------------------------------------------------------------------------------

_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""A marker, but not a restart marker or a byte 0xff of compressed data."""

_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_JPEG_WITHOUT_SEGMENT = (0x01, 0xD8)
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_HUFFMAN = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive; arithmetic and lossless coding take several times longer."""

_MAX_SEGMENTS = 1000
_MAX_SCANS = 20
"""A progressive JPEG has 10, or 18 in CMYK; each takes time for all pixels, however short it is."""


def _jpeg_segments(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield each marker up to the end marker, with the position behind it.

    Data of any kind may follow the end marker: phones append videos. Segments may contain end
    markers, of thumbnails.
    """
    position = 2
    for _ in range(_MAX_SEGMENTS):
        match = _JPEG_MARKER.search(data, position)
        if match is None:
            return
        position = match.end()
        marker = data[position - 1]
        yield marker, position
        if marker == _JPEG_END:
            return
        if marker not in _JPEG_WITHOUT_SEGMENT:
            position += int.from_bytes(data[position : position + 2], "big")
    raise FrameError(f"the JPEG is damaged: it has more than {_MAX_SEGMENTS} segments")


def _jpeg_size(data: memoryview) -> tuple[int, int]:
    for marker, position in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            if marker not in _JPEG_HUFFMAN:
                raise FrameError(
                    f"cannot decode a JPEG with the coding SOF{marker - 0xC0}; save it as baseline "
                    "or progressive JPEG"
                )
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
    raise FrameError(f"the JPEG is truncated: no size in {len(data)} bytes")


def _checked_jpeg(data: memoryview) -> memoryview:
    """Return the JPEG up to its end marker; OpenCV would fill the rest of a truncated one."""
    scans = 0
    for marker, position in _jpeg_segments(data):
        scans += marker == _JPEG_SCAN
        if scans > _MAX_SCANS:
            raise FrameError(
                f"cannot decode a JPEG with more than {_MAX_SCANS} scans; save it as baseline JPEG"
            )
        if marker == _JPEG_END:
            return data[:position]
    raise FrameError(f"the JPEG is truncated: no end marker in {len(data)} bytes")


# --- PNG -----------------------------------------------------------------------------------------

_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
"""Parts of a PNG that decide its pixels and orientation."""

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type to samples per pixel."""

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
"""First column and row, and the steps between columns and rows, of the passes of interlacing."""

_DEFLATE_RATIO = 1032
"""Most bytes that one byte of deflate data can become."""

_BLOCK = 1 << 20


def _checked_png(data: memoryview, max_pixels: int) -> memoryview | bytes:
    """Return the PNG without animations, compressed texts and profiles, which OpenCV expands."""
    pixels: list[memoryview] = []
    spans: list[tuple[int, int]] = []
    ended = False
    for kind, start, end in _png_chunks(data):
        if kind in _PNG_PIXELS:
            spans.append((start, end))
        if kind == b"IDAT":
            pixels.append(data[start + 8 : end - 4])
        ended |= kind == b"IEND"
    if not ended:
        raise FrameError(f"the PNG is truncated and cannot be decoded: it has {len(data)} bytes")
    # What can become at most as large as a permitted image is harmless, and needs no second look.
    if sum(map(len, pixels)) * _DEFLATE_RATIO > 4 * max_pixels:
        _check_png_data(data, pixels)
    kept = 8 + sum(end - start for start, end in spans)
    if kept == len(data):
        return data
    return b"".join((data[:8], *(data[start:end] for start, end in spans)))


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of each part that is complete, up to the end of the image."""
    start = 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            return
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def _check_png_data(data: memoryview, parts: list[memoryview]) -> None:
    """Refuse pixel data behind the last row, which libpng expands without limit.

    Raises:
        FrameError: There is such data.
    """
    width, height = _png_size(data)
    depth, colour, _, _, interlaced = data[24:29]
    bits = depth * _PNG_CHANNELS.get(colour, 4)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    left = 0
    for column, row, across, down in passes:
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            left += rows * (1 + (columns * bits + 7) // 8)
    inflate = zlib.decompressobj()
    try:
        for part in parts:
            rest: bytes | memoryview = part
            while rest and not inflate.eof:
                left -= len(inflate.decompress(rest, min(_BLOCK, left + 1)))
                if left < 0:
                    raise FrameError(
                        f"the PNG is damaged: it holds more data than {width} x {height} pixels"
                    )
                rest = inflate.unconsumed_tail
    except zlib.error as error:
        raise FrameError(f"the PNG is damaged: {error}") from error


_SIZES: dict[str, Callable[[memoryview], tuple[int, int]]] = {
    "JPEG": _jpeg_size,
    "PNG": _png_size,
    "WebP": _webp_size,
    "BMP": _bmp_size,
    "TIFF": _tiff_size,
}
