"""Replay of a video file: its stamps, its part, resuming, and files that are no video."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("polars")

from emotion_perception import toy_world
from emotion_perception.cli.main import main
from emotion_perception.core.values import Box
from emotion_perception.io.video_recording import VideoRecording
from emotion_perception.perception import detection
from emotion_perception.recognizers import registry
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector

BOX = Box(5, 5, 60, 90)
SECOND_NS = 10**9


@pytest.fixture
def video(tmp_path):
    """Two seconds at 10 frames per second."""
    path = tmp_path / "scene.avi"
    toy_world.write_clip(path, toy_world.draw_clip(3, 2.0, size=(96, 96), people=2))
    return path


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    monkeypatch.setattr(detection, "make_detector", lambda s: ScriptedDetector([BOX]))
    monkeypatch.setattr(registry, "make_recognizer", lambda s: FakeRecognizer())


def replay(path, out, *more):
    small = ("-p", "visibility.min_height:=10", "-p", "recognizer.device:=cpu")
    return main(["replay", str(path), "--out", str(out), "--quiet", *small, *more])


def test_stamps_are_the_times_of_the_frames(video):
    with VideoRecording(video) as recording:
        images = list(recording.images())
        times = [image.received_ns for image in images]
        assert times == [SECOND_NS + i * SECOND_NS // 10 for i in range(20)]
        assert (recording.start_ns, recording.end_ns - 1) == (times[0], times[-1])
        assert (len(recording), recording.topic) == (20, "/camera/image_raw")
        assert [image.frame.stamp_ns for image in images] == times
        part = [image.received_ns for image in recording.images(start=0.5, duration=1.0, every=3)]
        assert part == times[5:15:3]
    first = next(toy_world.draw_clip(3, 2.0, size=(96, 96), people=2)).image
    assert np.abs(images[0].frame.image.astype(int) - first).mean() < 12  # red is red
    assert images[0].message.encoding == "rgb8"


def test_frame_without_a_time_follows_by_the_rate(video, monkeypatch):
    class Untimed:
        def __init__(self, path):
            self._video = capture(path)

        def __getattr__(self, name):
            return getattr(self._video, name)

        def get(self, name):
            return 0.0 if name == cv2.CAP_PROP_POS_MSEC else self._video.get(name)

    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Untimed)
    times = [image.received_ns for image in VideoRecording(video).images()]
    assert times == [SECOND_NS + i * SECOND_NS // 10 for i in range(20)]


def test_fingerprint_is_that_of_the_content(video, tmp_path):
    before = VideoRecording(video).fingerprint()
    (tmp_path / "same.avi").write_bytes(video.read_bytes())
    assert VideoRecording(tmp_path / "same.avi").fingerprint() == before
    video.write_bytes(video.read_bytes() + b"x")
    assert VideoRecording(video).fingerprint() != before


def test_replay_of_a_video_is_repeatable_and_resumes(video, tmp_path, monkeypatch, capsys):
    def interrupted(settings):
        class Interrupted(ScriptedDetector):
            def detect(self, frame):
                if frame.stamp_ns > 2 * SECOND_NS:
                    raise KeyboardInterrupt
                return super().detect(frame)

        return Interrupted([BOX])

    assert replay(video, tmp_path / "whole", "--images", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["complete"], result["figures"]["images"]) == (True, 20)
    assert "the times of a video count from" in (tmp_path / "whole" / "report.html").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(detection, "make_detector", interrupted)
        assert replay(video, tmp_path / "resumed", "--images") == 130
    assert replay(video, tmp_path / "resumed", "--images") == 0
    for name in ("emotions.jsonl", "emotions.parquet"):
        whole, resumed = (tmp_path / out / name for out in ("whole", "resumed"))
        assert whole.read_bytes() == resumed.read_bytes()


def test_truncated_video_is_replayed_up_to_its_end(video, tmp_path, capsys):
    content = video.read_bytes()
    video.write_bytes(content[: len(content) * 2 // 3])
    assert replay(video, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert f"Warning: {video} ends after " in error
    assert "of 20 frames: the file is truncated" in error


@pytest.mark.parametrize("command", ["replay", "annotate"])
def test_file_that_is_no_video_is_named(tmp_path, capfd, command):
    for content in (b"", b"not a video"):
        (tmp_path / "x.mp4").write_bytes(content)
        assert main([command, str(tmp_path / "x.mp4"), "--out", str(tmp_path / "out.csv")]) == 2
        assert f"cannot read {tmp_path / 'x.mp4'}: OpenCV cannot decode" in capfd.readouterr().err
    assert main([command, str(tmp_path / "y.mp4"), "--out", str(tmp_path / "out.csv")]) == 2
    assert f"cannot read {tmp_path / 'y.mp4'}: there is no such file" in capfd.readouterr().err


def test_video_has_a_table_of_its_tracks(video, capsys):
    assert main(["annotate", str(video), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["table"] == str(video.with_name("scene.labels.csv"))
    assert "p00001" in video.with_name("scene.labels.csv").read_text()
