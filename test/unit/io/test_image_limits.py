"""Images that would take more memory or time than permitted ones are refused by their header."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from emotion_perception.core.errors import FrameError, UnknownEncodingError
from emotion_perception.io import image_decoding, video
from emotion_perception.io.image_header import CAMERA_FORMATS, FILE_FORMATS, MAX_PIXELS

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(suffix, image=RGB, *options):
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def decode(data, **options):
    return image_decoding.decode_image(np.frombuffer(data, np.uint8), **options)


def jpeg_claiming(width, height, data=None):
    """Return a JPEG whose header states another size."""
    data = bytearray(data or encoded(".jpg", np.zeros_like(RGB)))
    frame = re.search(rb"\xff[\xc0\xc2]\x00\x11\x08", data).end()
    data[frame : frame + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_scans(copies, side):
    """Return a progressive JPEG whose last scan occurs several times more."""
    data = encoded(".jpg", np.zeros((side, side, 3), np.uint8), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + copies * last_scan + b"\xff\xd9"


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, data, *chunks, colour=2, depth=8, interlaced=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(count):
    return zlib.compress(bytes(count), 9)


def tiff(width, height, *tags, big=False):
    """Return the header of a TIFF with tags of 32 bits."""
    tags = [(256, width), (257, height), *tags]
    if big:
        rows = (struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in tags)
        return b"II\x2b\x00\x08\x00\x00\x00" + struct.pack("<QQ", 16, len(tags)) + b"".join(rows)
    rows = (struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II\x2a\x00" + struct.pack("<IH", 8, len(tags)) + b"".join(rows)


def webp(kind, body):
    return b"RIFF\x00\x00\x00\x00WEBP" + kind + struct.pack("<I", len(body)) + body + bytes(20)


OVERSIZED = {
    "JPEG": jpeg_claiming(30_000, 30_000),
    "PNG": png(30_000, 30_000, zeros(10)),
    "WebP": webp(b"VP8X", bytes(4) + (29_999).to_bytes(3, "little") * 2),
    "WebP lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 16383 | 16383 << 14)),
    "WebP lossy": webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)),
    "BMP": b"BM" + bytes(12) + struct.pack("<Iii", 40, 30_000, -30_000) + bytes(28),
    "BMP of OS/2": b"BM" + bytes(12) + struct.pack("<IHH", 12, 30_000, 30_000) + bytes(28),
    "TIFF": tiff(30_000, 30_000),
    "BigTIFF": tiff(30_000, 30_000, big=True),
    "TIFF of one tile": tiff(1, 1, (322, 30_000), (323, 30_000)),
}


@pytest.mark.parametrize("kind", OVERSIZED)
def test_image_above_max_pixels_is_refused_before_it_is_decoded(kind, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was asked"))
    with pytest.raises(
        FrameError, match=r"of \d+ x \d+ pixels: the limit is max_pixels = 50000000"
    ):
        decode(OVERSIZED[kind], formats=FILE_FORMATS)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_limit_is_the_number_of_pixels(suffix):
    data = encoded(suffix)
    assert decode(data, formats=FILE_FORMATS, max_pixels=24 * 32).shape == RGB.shape
    with pytest.raises(FrameError, match="32 x 24 pixels: the limit is max_pixels = 767"):
        decode(data, formats=FILE_FORMATS, max_pixels=24 * 32 - 1)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((name, encoded(f".{name.lower()}")) for name in ("WebP", "BMP", "TIFF")),
        ("GIF", b"GIF89a" + bytes(20)),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20)),
        ("JPEG XL", b"\xff\x0a" + bytes(20)),
        ("AVIF", b"\0\0\0\x20ftypavif" + bytes(20)),
        ("HEIC", b"\0\0\0\x20ftypheic" + bytes(20)),
        ("OpenEXR", b"\x76\x2f\x31\x01" + bytes(20)),
        ("Radiance HDR", b"#?RADIANCE\n"),
        ("PNM", b"P6\n99999 99999\n255\n"),
        ("Sun raster", b"\x59\xa6\x6a\x95" + bytes(20)),
    ],
)
def test_other_formats_are_refused_by_name(name, data, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV was asked"))
    with pytest.raises(FrameError, match=f"bytes of {name}: only JPEG or PNG can be decoded here"):
        decode(data, formats=CAMERA_FORMATS)


@pytest.mark.parametrize("code", [0xC3, 0xC9, 0xCA])
def test_jpeg_of_a_slow_coding_is_refused_by_name(code):
    data = bytearray(encoded(".jpg"))
    data[data.index(b"\xff\xc0") + 1] = code
    with pytest.raises(FrameError, match=f"coding SOF{code - 0xC0}; save it as baseline"):
        decode(bytes(data))


def test_jpeg_of_many_scans_or_segments_is_refused():
    assert decode(jpeg_of_scans(8, 64)).shape == (64, 64, 3)
    with pytest.raises(FrameError, match="more than 20 scans"):
        decode(jpeg_of_scans(11, 64))
    data = encoded(".jpg")
    with pytest.raises(FrameError, match="more than 1000 segments"):
        decode(data[:2] + b"\xff\xfe\x00\x02" * 1000 + data[2:])


def test_png_keeps_its_pixels_without_texts_profiles_and_animation():
    data = encoded(".png")
    extra = (
        chunk(b"zTXt", b"k\0\0" + zeros(10**6)),
        chunk(b"iCCP", b"k\0\0" + zeros(10**6)),
        chunk(b"acTL", struct.pack(">II", 1000, 0)),
        chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 32, 24, 0, 0, 1, 1, 0, 0)),
    )
    assert np.array_equal(decode(data[:33] + b"".join(extra) + data[33:]), RGB)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (5, 9), (301, 203)])
@pytest.mark.parametrize("kind", [(2, 8), (6, 16), (0, 1), (3, 4)])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_png_with_data_behind_its_last_row_is_refused(width, height, kind, interlaced):
    colour, depth = kind
    bits = {0: 1, 2: 3, 3: 1, 6: 4}[colour] * depth
    row = lambda columns: 1 + (columns * bits + 7) // 8  # noqa: E731
    size = height * row(width)
    if interlaced:
        grid = np.tile(
            np.array([[1, 6, 4, 6, 2, 6, 4, 6], [7] * 8, [5, 6] * 4, [7] * 8,
                      [3, 6, 4, 6, 3, 6, 4, 6], [7] * 8, [5, 6] * 4, [7] * 8]),
            (26, 38),
        )[:height, :width]  # fmt: skip
        passes = [np.argwhere(grid == number) for number in range(1, 8)]
        size = sum(
            len(set(p[:, 0])) * row(len(set(p[:, 1]))) for p in passes if len(p)
        )  # rows and columns of each pass of Adam7
    palette = chunk(b"PLTE", bytes(48))
    for excess in (0, 1):
        data = png(width, height, zeros(size + excess), palette, colour=colour, depth=depth,
                   interlaced=interlaced)  # fmt: skip
        # A limit below the size of the data, so that it is counted however small it is.
        pixels = image_decoding.image_header._checked_png
        if excess:
            with pytest.raises(FrameError, match="more data than"):
                pixels(memoryview(data), 0)
        else:
            assert bytes(pixels(memoryview(data), 0)) == data
            assert decode(data).shape == (height, width, 3)


def raw(encoding, width, height, step, data, frame_id="camera"):
    stamp = SimpleNamespace(sec=1, nanosec=0)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp, frame_id=frame_id), height=height, width=width,
        encoding=encoding, is_bigendian=0, step=step, data=np.frombuffer(data, np.uint8),
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["rgb8", "mono16", "nv12", "bayer_rggb16"])
def test_raw_image_above_max_pixels_is_refused(encoding):
    rows = image_decoding.ENCODINGS[encoding].rows_per_row
    message = raw(encoding, 10, 10, 30, bytes(int(rows * 300)))
    assert image_decoding.frame_from_image(message, max_pixels=100).width == 10
    with pytest.raises(FrameError, match="10 x 10 pixels: the limit is max_pixels = 99"):
        image_decoding.frame_from_image(message, max_pixels=99)


def test_raw_image_of_an_absurd_size_never_reaches_cv_bridge():
    message = raw("rgb16", 2**32 - 1, 2**32 - 1, 2**32 - 1, b"")
    with pytest.raises(FrameError, match="the limit is max_pixels") as caught:
        image_decoding.frame_from_image(message)
    assert not isinstance(caught.value, UnknownEncodingError)


def test_video_above_max_pixels_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    assert len(video.read_clips(path)) == 1
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match=r"clip.avi: cannot decode a video of 64 x 48 pixels"):
        video.read_clips(path)


# --- Memory and time -----------------------------------------------------------------------------

SIDE = 2000
MEASURE = f"""
import json, os, sys, time
import numpy as np
from emotion_perception.core.errors import FrameError
from emotion_perception.io.image_decoding import decode_image

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

for path in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    data = np.fromfile(path, np.uint8)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts at the present size
    before, start = peak(), time.process_time()
    try:
        decode_image(data, max_pixels={SIDE**2})
    except FrameError:
        pass
    print(json.dumps([peak() - before, time.process_time() - start]), flush=True)
    os._exit(0)
"""


def costs(folder, images):
    """Return additional peak memory in bytes and seconds of decoding, each in a new process."""
    paths = [folder / str(number) for number in range(len(images))]
    for path, data in zip(paths, images, strict=True):
        path.write_bytes(data)
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


@pytest.mark.serial
def test_no_image_costs_more_than_the_largest_permitted_one(tmp_path):
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("cannot measure peak memory: /proc/self/clear_refs cannot be written")
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    permitted = [
        encoded(".jpg", noise),
        encoded(".jpg", noise, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encoded(".png", noise),
    ]
    text = chunk(b"zTXt", b"k\0\0" + zeros(7_900_000))
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, SIDE, SIDE, 0, 0, 1, 1, 0, 0))
    animation = chunk(b"acTL", struct.pack(">II", 100, 0)) + frame
    hostile = {
        "oversized JPEG": jpeg_claiming(30_000, 30_000),
        "oversized PNG": png(30_000, 30_000, zeros(10**6)),
        "JPEG of 20 scans": jpeg_of_scans(10, SIDE),
        "JPEG of 500 scans": jpeg_of_scans(490, SIDE),
        "PNG of 16 bits": png(SIDE, SIDE, zeros(SIDE * (8 * SIDE + 1)), colour=6, depth=16),
        "PNG with data behind its last row": png(1, 1, zeros(3 * 10**8)),
        "PNG with 40 texts": png(1, 1, zeros(4), text * 40),
        "animated PNG": png(SIDE, SIDE, zeros(SIDE * (4 * SIDE + 1)), animation, colour=6),
    }
    runs = np.array([costs(tmp_path, [*permitted, *hostile.values()]) for _ in range(3)])
    memory, seconds = runs.min(axis=0).T
    most, longest = memory[: len(permitted)].max(), seconds[: len(permitted)].max()
    for number, name in enumerate(hostile, len(permitted)):
        assert memory[number] <= 1.5 * most, f"{name}: {memory[number] / most:.1f} of the largest"
        assert seconds[number] <= 3 * longest, f"{name}: {seconds[number]:.2f} s, {longest:.2f}"


def test_default_limit_is_50_million_pixels():
    assert MAX_PIXELS == 50_000_000
