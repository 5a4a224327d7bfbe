"""Videos in messages: decoded in order with PyAV, otherwise refused in one line."""

import json
import sys

import cv2
import numpy as np
import pytest
from support.bag_files import write
from support.videos import drawn_images, encoded, serialized

from emotion_perception.core.errors import FrameError
from emotion_perception.io import image_decoding, video_stream
from emotion_perception.io.bags import Bag, EstimatesBag
from emotion_perception.io.h264 import FrameNumbers
from emotion_perception.io.image_decoding import COMPRESSED_IMAGE
from emotion_perception.io.video_stream import (
    COMPRESSED_VIDEO,
    FFMPEG_PACKET,
    FOXGLOVE_IMAGE,
    codec_of,
)

pytest.importorskip("av")

IMAGES = drawn_images(25)
TIMES = [10**9 + number * 10**8 for number in range(25)]
PACKETS = encoded(IMAGES)
NO_DATA = np.zeros(0, np.uint8)


def video_bag(folder, packets=PACKETS, msgtype=COMPRESSED_IMAGE, video_format="h264"):
    raws = serialized(packets, msgtype, video_format)
    write(folder, raws, TIMES, topic="/camera/video", msgtype=msgtype)
    return folder


def difference(image, number):
    return np.abs(image.frame.image.astype(int) - IMAGES[number]).mean()


@pytest.mark.parametrize(
    ("msgtype", "encoder", "video_format"),
    [
        (COMPRESSED_IMAGE, "libx264", "h264"),
        (COMPRESSED_IMAGE, "libx264", "bgr8; H264 compressed"),
        (COMPRESSED_VIDEO, "libx264", "h264"),
        (COMPRESSED_VIDEO, "libx265", "h265"),
        (COMPRESSED_VIDEO, "libvpx-vp9", "vp9"),
        (COMPRESSED_VIDEO, "libsvtav1", "av1"),
        (FFMPEG_PACKET, "libx264", "libx264"),
        (FFMPEG_PACKET, "libx264", "h264;yuv420p;bgr8;bgr8"),
        (FFMPEG_PACKET, "libx265", "hevc_nvenc"),
    ],
)
def test_each_image_of_a_video_is_decoded(tmp_path, msgtype, encoder, video_format):
    path = video_bag(tmp_path / "bag", encoded(IMAGES, encoder), msgtype, video_format)
    with Bag(path) as bag:
        images = list(bag.images())
    assert len(images) == 25
    assert not bag.skipped
    for number, image in enumerate(images):
        assert difference(image, number) < 6
        assert image.frame.stamp_ns == image.received_ns == TIMES[number]
        assert image.frame.camera == "camera"


def test_compressed_images_of_foxglove_are_decoded(tmp_path):
    packets = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in IMAGES]
    with Bag(video_bag(tmp_path / "bag", packets, FOXGLOVE_IMAGE, "png")) as bag:
        images = list(bag.images())
    assert [difference(image, number) for number, image in enumerate(images)] == [0] * 25
    assert [image.frame.stamp_ns for image in images] == TIMES


def test_selected_images_of_a_video_are_those_of_the_whole_video(tmp_path):
    with Bag(video_bag(tmp_path / "bag")) as bag:
        images = list(bag.images(start=0.35, duration=1.5, every=4))
    assert [image.received_ns for image in images] == TIMES[4:19:4]
    assert all(difference(image, TIMES.index(image.received_ns)) < 6 for image in images)


def test_images_before_the_first_key_image_are_counted_as_one_reason(tmp_path):
    path = tmp_path / "bag"
    raws = serialized(PACKETS, COMPRESSED_VIDEO)[3:]
    write(path, raws, TIMES[3:], topic="/camera/video", msgtype=COMPRESSED_VIDEO)
    with Bag(path) as bag:
        images = list(bag.images())
    assert [image.frame is None for image in images] == [True] * 7 + [False] * 15
    ((reason, count),) = bag.skipped.items()
    assert count == 7
    assert "the format 'h264' is H.264 video" in reason
    assert "before the first key image" in reason


@pytest.mark.parametrize(
    ("pixels", "parameters"),
    [
        ("yuv420p", "ref=16"),
        ("yuv420p", "interlaced=1"),
        ("yuv420p", "slices=4"),
        ("yuv420p", "b-pyramid=strict"),
        ("yuv420p", "cqm=jvt"),
        ("yuv444p", "keyint=infinite"),
        ("yuv420p10le", "ref=4"),
        ("gray", "ref=4"),
    ],
)
def test_complete_video_has_no_gap_in_its_frame_numbers(pixels, parameters):
    options = {"preset": "veryslow", "x264-params": parameters}
    b_frames = 3 if "pyramid" in parameters else 0
    packets = encoded(IMAGES, b_frames=b_frames, key_interval=250, pixels=pixels, options=options)
    numbers = FrameNumbers()
    assert not any(numbers.is_gap_before(packet) for packet in packets)
    numbers = FrameNumbers()
    assert any(numbers.is_gap_before(packet) for packet in packets[:4] + packets[8:])


@pytest.mark.parametrize("encoder", ["libx264", "libx265"])
@pytest.mark.parametrize("missing", [[4], [4, 5], [9], [10]])
def test_images_that_refer_to_a_missing_message_are_not_used(tmp_path, encoder, missing):
    packets = encoded(IMAGES, encoder)
    present = [number for number in range(25) if number not in missing]
    raws = [serialized(packets, COMPRESSED_VIDEO, encoder)[number] for number in present]
    times = [TIMES[number] for number in present]
    write(tmp_path / "bag", raws, times, topic="/camera/video", msgtype=COMPRESSED_VIDEO)
    with Bag(tmp_path / "bag") as bag:
        images = dict(zip(present, bag.images(), strict=True))
    used = [number for number, image in images.items() if image.frame is not None]
    next_key = -(-missing[-1] // 10) * 10 if missing != [10] else 20
    assert used == [number for number in range(25) if not missing[0] <= number < next_key]
    assert all(difference(images[number], number) < 6 for number in used)


def test_video_that_delays_its_images_is_counted_with_the_remedy(tmp_path):
    with Bag(video_bag(tmp_path / "bag", encoded(IMAGES, b_frames=2))) as bag:
        images = list(bag.images())
    assert bag.skipped.total() == sum(image.frame is None for image in images) > 10
    assert all("record without B-frames" in reason for reason in bag.skipped)


@pytest.mark.parametrize("msgtype", [COMPRESSED_IMAGE, COMPRESSED_VIDEO, FFMPEG_PACKET])
def test_video_without_pyav_is_one_line_with_the_remedy(tmp_path, monkeypatch, msgtype):
    monkeypatch.setitem(sys.modules, "av", None)
    with Bag(video_bag(tmp_path / "bag", msgtype=msgtype)) as bag:
        assert all(image.frame is None for image in bag.images())
    assert dict(bag.skipped) == {
        "the format 'h264' is H.264 video, which PyAV decodes; install it with `pip install av`, "
        "or record JPEG images": 25
    }


def test_format_that_names_no_codec_is_recognized_by_its_data(tmp_path):
    with Bag(video_bag(tmp_path / "bag", video_format="")) as bag:
        assert sum(image.frame is not None for image in bag.images()) == 25


@pytest.mark.parametrize(
    ("video_format", "message_part"),
    [
        ("h264;gray;bayer_rggb8", "pixels that are not colours"),
        ("h264;yuv420p;mono16;mono16", "pixels that are not colours"),
        ("mpeg4", "not supported; record H.264"),
        ("vp8", "not supported; record H.264"),
    ],
)
def test_video_that_would_be_decoded_wrongly_is_refused(tmp_path, video_format, message_part):
    path = video_bag(tmp_path / "bag", PACKETS, FFMPEG_PACKET, video_format)
    with Bag(path) as bag:
        assert all(image.frame is None for image in bag.images())
    ((reason, count),) = bag.skipped.items()
    assert message_part in reason
    assert count == 25


@pytest.mark.parametrize(
    "image_format", ["jpeg", "bgr8; jpeg compressed bgr8", "png", "rgb8; png compressed", "mjpeg"]
)
def test_format_of_single_images_names_no_codec(image_format):
    assert codec_of(image_format, NO_DATA) == ""


def test_video_among_compressed_images_is_refused_in_one_line():
    (raw, *_) = serialized(PACKETS, COMPRESSED_IMAGE)
    message = image_decoding.deserialize(raw, COMPRESSED_IMAGE)
    with pytest.raises(FrameError, match="is H.264 video, which image_transport") as error:
        image_decoding.frame_from_compressed(message)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


def test_messages_that_are_not_images_count_as_one_reason(tmp_path):
    data = [bytes(range(length)) + b"\x01" * length for length in range(10, 35)]
    with Bag(video_bag(tmp_path / "bag", data, video_format="jpeg")) as bag:
        assert all(image.frame is None for image in bag.images())
    ((reason, count),) = bag.skipped.items()
    assert reason == "20 bytes that start with 0001 are not an image"
    assert count == 25


@pytest.mark.parametrize("msgtype", [COMPRESSED_VIDEO, FFMPEG_PACKET])
def test_video_messages_are_written_as_they_were_recorded(tmp_path, msgtype):
    path = video_bag(tmp_path / "bag", msgtype=msgtype)
    with Bag(path) as bag, EstimatesBag(tmp_path / "copy", "/camera/video") as copy:
        for image in bag.images():
            copy.add_image(image)
    with Bag(tmp_path / "copy", "/camera/video") as bag:
        assert all(difference(image, n) < 6 for n, image in enumerate(bag.images()))


def test_replay_of_a_video_without_pyav_is_one_error(tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    from emotion_perception.cli.main import main
    from emotion_perception.perception import detection
    from emotion_perception.recognizers import registry
    from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector

    monkeypatch.setattr(detection, "make_detector", lambda settings: ScriptedDetector([]))
    monkeypatch.setattr(registry, "make_recognizer", lambda settings: FakeRecognizer())
    bag, out = video_bag(tmp_path / "bag"), tmp_path / "out"
    assert main(["replay", str(bag), "--out", str(out)]) == 0
    assert json.loads((out / "figures.json").read_text())["fates"] == {"looked at": 25}
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["replay", str(bag), "--out", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert error.count("is H.264 video, which PyAV decodes; install it with") == 1
    assert len(error) < 2000
    assert main(["annotate", str(bag), "--out", str(tmp_path / "table.csv")]) == 2
    error = capsys.readouterr().err
    assert "no person is detected; 25 messages are not readable images: the format" in error


def test_video_above_max_pixels_is_refused(tmp_path):
    with Bag(video_bag(tmp_path / "bag"), max_pixels=96 * 64) as bag:
        assert all(image.frame is not None for image in bag.images())
    with Bag(tmp_path / "bag", max_pixels=96 * 64 - 1) as bag:
        assert all(image.frame is None for image in bag.images())
        assert "H.264 of 96 x 64 pixels: the limit is max_pixels = 6143" in next(iter(bag.skipped))


@pytest.mark.parametrize(
    ("encoder", "codec"),
    [("libx264", "h264"), ("libx265", "h265"), ("libvpx-vp9", "vp9"), ("libsvtav1", "av1")],
)
def test_ffmpeg_refuses_a_video_far_above_max_pixels(encoder, codec, monkeypatch, tmp_path):
    monkeypatch.setattr(video_stream, "_ROUNDED_UP", 0)
    folder = video_bag(tmp_path / "bag", encoded(IMAGES[:5], encoder), video_format=codec)
    with Bag(folder, max_pixels=100) as bag:
        images = [image.frame for image in bag.images()]
    assert images == [None] * 5
