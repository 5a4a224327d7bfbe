"""Decoding of image messages: all encodings, and invalid messages."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from emotion_perception.core.errors import FrameError, UnknownEncodingError
from emotion_perception.io import image_decoding

pytest.importorskip("scipy.io")
from support.emotic_files import with_orientation

STORE = get_typestore(Stores.ROS2_JAZZY)
# Six colours that show swapped channels, in blocks of 8 pixels that survive subsampling.
COLOURS = np.array(
    [[(250, 5, 5), (5, 250, 5), (5, 5, 250)], [(250, 250, 5), (5, 250, 250), (128, 128, 128)]],
    np.uint8,
)
RGB = COLOURS.repeat(8, axis=0).repeat(8, axis=1)  # 16 x 24


def message(encoding="rgb8", data=None, height=16, width=24, step=None, bigendian=0, sec=7):
    data = RGB.tobytes() if data is None else data
    step = len(data) // height if step is None else step
    header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=500), frame_id="optical")
    return SimpleNamespace(
        header=header, height=height, width=width, encoding=encoding, step=step,
        is_bigendian=bigendian, data=np.frombuffer(data, np.uint8),
    )  # fmt: skip


def bayer(pattern):
    """Return the image as a sensor with that colour filter records it."""
    channel = {"r": 0, "g": 1, "b": 2}
    mosaic = np.empty(RGB.shape[:2], np.uint8)
    for place, name in enumerate(pattern):
        row, column = divmod(place, 2)
        mosaic[row::2, column::2] = RGB[row::2, column::2, channel[name]]
    return mosaic


def yuv422(order):
    yuv = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV)
    y, u, v = yuv[..., 0], yuv[:, ::2, 1], yuv[:, ::2, 2]
    packed = np.empty((16, 12, 4), np.uint8)
    for place, name in enumerate(order):
        packed[..., place] = {"u": u, "v": v, "y": y[:, ::2], "Y": y[:, 1::2]}[name]
    return packed


@pytest.mark.parametrize(
    ("encoding", "data", "tolerance"),
    [
        ("rgb8", RGB, 0),
        ("bgr8", RGB[..., ::-1], 0),
        ("rgba8", np.dstack([RGB, np.full((16, 24), 9, np.uint8)]), 0),
        ("bgra8", np.dstack([RGB[..., ::-1], np.full((16, 24), 9, np.uint8)]), 0),
        ("bayer_rggb8", bayer("rggb"), 0),
        ("bayer_bggr8", bayer("bggr"), 0),
        ("bayer_gbrg8", bayer("gbrg"), 0),
        ("bayer_grbg8", bayer("grbg"), 0),
        ("uyvy", yuv422("uyvY"), 30),
        ("yuv422", yuv422("uyvY"), 30),
        ("yuyv", yuv422("yuYv"), 30),
        ("yuv422_yuy2", yuv422("yuYv"), 30),
    ],
)
def test_a_colour_encoding_keeps_its_colours(encoding, data, tolerance):
    frame = image_decoding.frame_from_image(message(encoding, np.ascontiguousarray(data).tobytes()))
    assert frame.image.shape == (16, 24, 3)
    # In the middle of the blocks, where demosaicking has nothing to guess.
    got, wanted = frame.image[3::8, 3::8].astype(int), COLOURS.astype(int)
    assert np.abs(got - wanted).max() <= tolerance


def half_chroma(order):
    """Return the image as rows of luma and rows of chroma pairs, from OpenCV's own conversion."""
    planes = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV_I420)  # (24, 24): 16 rows of y, 4 of u, 4 of v
    chroma = {"u": planes[16:20].reshape(8, 12), "v": planes[20:].reshape(8, 12)}
    pairs = np.dstack([chroma[name] for name in order]).reshape(8, 24)
    return np.concatenate([planes[:16], pairs])


@pytest.mark.parametrize(
    ("encoding", "order", "code"),
    [("nv12", "uv", cv2.COLOR_YUV2RGB_NV12), ("nv21", "vu", cv2.COLOR_YUV2RGB_NV21)],
)
def test_planes_of_half_chroma_are_decoded_as_by_opencv(encoding, order, code):
    rows = half_chroma(order)
    image = image_decoding.frame_from_image(message(encoding, rows.tobytes(), step=24)).image
    assert np.array_equal(image, cv2.cvtColor(rows, code))
    assert np.abs(image[3::8, 3::8].astype(int) - COLOURS).max() <= 3
    padded = np.pad(rows, ((0, 0), (0, 8)), constant_values=99)
    again = image_decoding.frame_from_image(message(encoding, padded.tobytes(), step=32))
    assert np.array_equal(again.image, image)


def test_nv24_is_decoded_as_opencv_decodes_the_same_colours_in_nv12():
    random = np.random.default_rng(0)
    luma = random.integers(0, 256, (16, 24), np.uint8)
    chroma = random.integers(0, 256, (16, 24, 2), np.uint8)
    # Each pixel as two by two equal ones: half the chroma of those is the chroma of the pixel.
    doubled = np.concatenate([luma.repeat(2, 0).repeat(2, 1), chroma.reshape(16, 48)])
    expected = cv2.cvtColor(doubled, cv2.COLOR_YUV2RGB_NV12)[::2, ::2].astype(int)
    for step in (24, 32):
        rows = np.zeros((48, step), np.uint8)
        rows[:16, :24] = luma
        rows[16:].reshape(16, 2 * step)[:, :48] = chroma.reshape(16, 48)
        image = image_decoding.frame_from_image(message("nv24", rows.tobytes(), step=step)).image
        assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize("size", [(15, 24), (16, 23)])
def test_half_chroma_of_odd_size_raises_frame_error(encoding, size):
    height, width = size
    data = bytes(height * width * 3 // 2)
    with pytest.raises(FrameError, match="both have to be even"):
        image_decoding.frame_from_image(message(encoding, data, height, width, step=width))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("byte_order", ["<u2", ">u2"])
def test_bayer_of_16_bits_keeps_its_colours(pattern, byte_order):
    deep = (bayer(pattern).astype(np.uint16) << 8) + 200
    frame = image_decoding.frame_from_image(
        message(
            f"bayer_{pattern}16", deep.astype(byte_order).tobytes(), bigendian=byte_order[0] == ">"
        )
    )
    code = getattr(cv2, f"COLOR_Bayer{pattern.upper()}2RGB")
    expected = cv2.cvtColor(deep, code) >> 8
    assert np.abs(frame.image.astype(int) - expected).max() <= 1
    assert np.array_equal(frame.image[3::8, 3::8], COLOURS)


@pytest.mark.parametrize(
    ("encoding", "meaning"),
    [("8UC1", "mono8"), ("8UC1", "bayer_rggb8"), ("8UC2", "uyvy"), ("8UC3", "bgr8"),
     ("8UC3", "rgb8"), ("8UC4", "bgra8")],
)  # fmt: skip
def test_image_without_channel_order_needs_the_setting(encoding, meaning):
    channels = int(encoding[-1])
    data = np.random.default_rng(0).integers(0, 256, (16, 24, channels), np.uint8).tobytes()
    expected = image_decoding.frame_from_image(message(meaning, data)).image
    with pytest.raises(FrameError, match=f"{encoding}.*set image_encoding.*{meaning}") as caught:
        image_decoding.frame_from_image(message(encoding, data))
    assert not isinstance(caught.value, UnknownEncodingError)
    frame = image_decoding.frame_from_image(message(encoding, data), image_encoding=meaning)
    assert np.array_equal(frame.image, expected)
    other = "rgb8" if channels != 3 else "mono8"
    with pytest.raises(FrameError, match=f"{channels} bytes per pixel .*, not '{other}'"):
        image_decoding.frame_from_image(message(encoding, data), image_encoding=other)
    named = image_decoding.frame_from_image(message("bgr8", RGB.tobytes()), image_encoding=meaning)
    assert np.array_equal(named.image, RGB[..., ::-1])  # a name says more than the setting


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "32F"])
def test_depth_image_raises_frame_error(encoding):
    with pytest.raises(FrameError, match="is a depth image") as caught:
        image_decoding.frame_from_image(message(encoding), image_encoding="mono8")
    assert not isinstance(caught.value, UnknownEncodingError)  # cv_bridge is not asked


@pytest.mark.parametrize("encoding", ["8SC3", "16UC3", "16SC1", "32SC1", "32FC3", "64FC1"])
def test_other_numbers_without_channel_order_raise_frame_error(encoding):
    with pytest.raises(FrameError, match="has no channel order and is not of 8 bits") as caught:
        image_decoding.frame_from_image(message(encoding))
    assert not isinstance(caught.value, UnknownEncodingError)


def test_long_encoding_name_makes_a_short_error():
    with pytest.raises(UnknownEncodingError) as caught:
        image_decoding.frame_from_image(message("x" * 100_000))
    assert len(str(caught.value)) < 500


def test_grey_encodings_are_decoded_in_both_byte_orders():
    grey = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24) * 170
    eight = (grey >> 8).astype(np.uint8)
    for encoding, data, bigendian in (
        ("mono8", eight.tobytes(), 0),
        ("mono16", grey.astype("<u2").tobytes(), 0),
        ("mono16", grey.astype(">u2").tobytes(), 1),
    ):
        image = image_decoding.frame_from_image(message(encoding, data, bigendian=bigendian)).image
        assert np.array_equal(image, np.dstack([eight] * 3))


def test_row_padding_is_removed():
    padded = np.zeros((16, 24 * 3 + 8), np.uint8)
    padded[:, :72] = RGB.reshape(16, 72)
    frame = image_decoding.frame_from_image(message(data=padded.tobytes(), step=80))
    assert np.array_equal(frame.image, RGB)


def test_frame_has_stamp_and_camera_of_the_header():
    frame = image_decoding.frame_from_image(message())
    assert (frame.stamp_ns, frame.camera) == (7 * 10**9 + 500, "optical")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"height": 0, "data": b""}, "empty: 24 x 0 pixels"),
        ({"width": 0}, "empty: 0 x 16 pixels"),
        ({"step": 71}, "step 71 is too short: 24 pixels of rgb8 take 72 bytes"),
        ({"step": 72, "height": 17}, "height 17 x step 72 is 1224 bytes, not 1152"),
        ({"step": 72, "height": 15}, "height 15 x step 72 is 1080 bytes, not 1152"),
        ({"height": 4_000_000_000, "step": 4_000_000_000}, "bytes, not 1152 as in the data"),
        ({"sec": -1}, "header.stamp is -1 s"),
    ],
)
def test_inconsistent_message_raises_frame_error(changes, error):
    if changes.get("data") == b"":
        changes["step"] = 72
    with pytest.raises(FrameError, match=error):
        image_decoding.frame_from_image(message(**changes))


def test_unknown_encoding_error_lists_known_encodings():
    with pytest.raises(UnknownEncodingError, match="'rgb16' is not one of rgb8, bgr8"):
        image_decoding.frame_from_image(message("rgb16"))


def test_yuv_image_of_odd_width_raises_frame_error():
    data = np.zeros((16, 23, 2), np.uint8).tobytes()
    with pytest.raises(FrameError):
        image_decoding.frame_from_image(message("uyvy", data, width=23))


def compressed(data, image_format="rgb8; jpeg compressed bgr8"):
    header = SimpleNamespace(stamp=SimpleNamespace(sec=7, nanosec=0), frame_id="optical")
    return SimpleNamespace(header=header, format=image_format, data=np.frombuffer(data, np.uint8))


def encoded(suffix):
    return cv2.imencode(suffix, cv2.cvtColor(RGB, cv2.COLOR_RGB2BGR))[1].tobytes()


def test_compressed_images_are_decoded_to_rgb():
    assert np.array_equal(
        image_decoding.frame_from_compressed(compressed(encoded(".png"))).image, RGB
    )
    jpeg = image_decoding.frame_from_compressed(compressed(encoded(".jpg"))).image.astype(int)
    assert np.abs(jpeg[3::8, 3::8] - COLOURS).max() < 40


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "0 bytes that start with nothing are not an image"),
        (b"not an image", "12 bytes that start with 6e6f are not an image"),
        (encoded(".jpg")[:-40], "the JPEG is truncated"),
        (encoded(".png")[:30], "not an image|cannot be decoded"),
    ],
)
def test_damaged_compressed_image_raises_frame_error(data, error):
    with pytest.raises(FrameError, match=error):
        image_decoding.frame_from_compressed(compressed(data))


JPEG_KINDS = {
    "baseline": [],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "with restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 1],
}


@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_data_after_the_end_of_a_jpeg_is_ignored(kind):
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", noise, JPEG_KINDS[kind])[1].tobytes()
    expected = image_decoding.decode_image(np.frombuffer(jpeg, np.uint8))
    video = b"ftypmp42" + np.random.default_rng(1).bytes(200_000)  # holds all two-byte markers
    assert b"\xff\xda" in video
    for appended in (b"\0" * 300, video, jpeg[:-40], b"\xff\xda"):
        data = np.frombuffer(jpeg + appended, np.uint8)
        assert np.array_equal(image_decoding.decode_image(data), expected)


@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_truncated_jpeg_raises_frame_error_wherever_it_ends(kind):
    jpeg = cv2.imencode(".jpg", RGB, JPEG_KINDS[kind])[1]
    for length in range(2, len(jpeg)):
        with pytest.raises(FrameError, match="the JPEG is truncated"):
            image_decoding.decode_image(jpeg[:length])


def test_frame_of_a_camera_is_not_turned_by_its_exif_orientation():
    jpeg = with_orientation(encoded(".jpg"), 6)
    assert image_decoding.frame_from_compressed(compressed(jpeg)).image.shape == (16, 24, 3)
    data = np.frombuffer(jpeg, np.uint8)
    turned = image_decoding.decode_image(data, apply_orientation=True)
    assert turned.shape == (24, 16, 3)
    assert np.array_equal(turned, np.rot90(image_decoding.decode_image(data), -1))


def test_end_marker_of_a_thumbnail_does_not_end_the_jpeg():
    jpeg = encoded(".jpg")
    thumbnail = b"\xff\xe1\x00\x0a" + b"Exif\0\0\xff\xd9"
    data = jpeg[:2] + thumbnail + jpeg[2:]
    assert image_decoding.frame_from_compressed(compressed(data)).image.shape == (16, 24, 3)
    with pytest.raises(FrameError, match="the JPEG is truncated"):
        image_decoding.frame_from_compressed(compressed(data[:-40]))


def test_compressed_depth_image_raises_frame_error():
    with pytest.raises(FrameError, match="is a depth image"):
        image_decoding.frame_from_compressed(
            compressed(encoded(".png"), "16UC1; compressedDepth png")
        )


def serialized():
    types = STORE.types
    header = types["std_msgs/msg/Header"](
        stamp=types["builtin_interfaces/msg/Time"](sec=7, nanosec=500), frame_id="optical"
    )
    image = types["sensor_msgs/msg/Image"](
        header=header, height=16, width=24, encoding="rgb8", is_bigendian=0, step=72,
        data=RGB.ravel(),
    )  # fmt: skip
    return bytes(STORE.serialize_cdr(image, "sensor_msgs/msg/Image"))


def test_stamp_is_read_from_the_bytes_of_a_message_in_either_order():
    message = image_decoding.deserialize(serialized(), image_decoding.IMAGE)
    expected = image_decoding.stamp_ns(message)
    assert expected
    assert image_decoding.serialized_stamp_ns(serialized()) == expected
    big_endian = STORE.serialize_cdr(message, "sensor_msgs/msg/Image", little_endian=False)
    assert image_decoding.serialized_stamp_ns(bytes(big_endian)) == expected
    with pytest.raises(FrameError, match="11 bytes are not a valid image message"):
        image_decoding.serialized_stamp_ns(serialized()[:11])
    with pytest.raises(FrameError, match="is not a valid time"):
        image_decoding.serialized_stamp_ns(b"\0\1\0\0" + b"\xff" * 8)


def test_serialized_messages_are_decoded():
    frame = image_decoding.frame_from_image(
        image_decoding.deserialize(serialized(), image_decoding.IMAGE)
    )
    assert np.array_equal(frame.image, RGB)


def test_damaged_bytes_raise_only_frame_errors():
    valid, random = serialized(), np.random.default_rng(0)
    accepted = 0
    for _ in range(2000):
        damaged = bytearray(valid)
        for _ in range(random.integers(1, 6)):
            damaged[random.integers(0, min(len(damaged), 80))] = random.integers(0, 256)
        damaged = damaged[: random.integers(1, len(damaged) + 1)]
        try:
            image_decoding.frame_from_image(
                image_decoding.deserialize(bytes(damaged), image_decoding.IMAGE)
            )
            accepted += 1
        except FrameError:
            pass
    assert accepted < 2000


def test_length_beyond_the_message_raises_frame_error():
    damaged = bytearray(serialized())
    place = damaged.find(struct.pack("<I", RGB.size), 40)
    damaged[place : place + 4] = struct.pack("<I", 2**32 - 1)
    with pytest.raises(FrameError):
        image_decoding.frame_from_image(
            image_decoding.deserialize(bytes(damaged), image_decoding.IMAGE)
        )
