"""A session looks at a source as the node does, and does what the page asks."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("supervision")

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box, Frame
from emotion_perception.live.camera import Camera
from emotion_perception.live.hub import Hub
from emotion_perception.live.session import LiveSession
from emotion_perception.testing.fakes import (
    BlockingRecognizer,
    FakeRecognizer,
    ScriptedDetector,
    noise_image,
)

PERSON = Box(40, 20, 160, 220)
SETTINGS = {"scheduler.refresh": 0.0, "silence": 0.2, "visibility.min_sharpness": 0.0}


class DrawnCamera:
    """A camera whose images a test shows one by one."""

    name, ended, error = "drawn", False, ""

    def __init__(self):
        self._frames, self.closed = [], False
        self._arrived = threading.Event()

    def show(self, image=None):
        image = noise_image() if image is None else image
        self._frames.append(Frame(image, time.time_ns(), "drawn"))

    def take(self, timeout_s):
        time.sleep(0.002)
        return self._frames.pop(0) if self._frames else None

    def close(self):
        self.closed = True


class Watcher(Hub):
    """A hub that keeps all states."""

    def __init__(self):
        super().__init__()
        self.pictures = []

    def publish(self, picture):
        self.pictures.append(picture())


def wait_for(condition, camera=None):
    """Wait for a condition, while the camera shows images if there is one."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        if camera is not None:
            camera.show()
        time.sleep(0.02)


@pytest.fixture
def make_session(tmp_path):
    """A function that starts a session, and its camera, hub and recognizer."""
    started = []

    def make(recognizer=None, detector=None, **settings):
        camera, hub = DrawnCamera(), Watcher()
        session = LiveSession(
            lambda: camera,
            detector or ScriptedDetector([PERSON]),
            recognizer or FakeRecognizer(),
            Settings.from_dict({**SETTINGS, **settings}),
            hub,
            tmp_path / "moments",
        )
        session.start()
        started.append(session)
        return session, camera, hub

    yield make
    for session in started:
        session.close()


def newest(hub):
    return hub.pictures[-1].state if hub.pictures else {}


def statuses(hub):
    return [person["status"] for person in newest(hub).get("people", [])]


def test_person_is_assessed_and_the_picture_shown(make_session):
    _, camera, hub = make_session()
    wait_for(lambda: statuses(hub) == ["ASSESSED"], camera)
    state = newest(hub)
    assert state["people"][0]["label"] == "happiness"
    assert state["people"][0]["age_s"] >= 0
    assert state["looking"]
    assert state["source"] == "drawn"
    assert hub.pictures[-1].image.shape == (240, 320, 3)


def test_pictures_go_on_while_the_model_is_busy(make_session):
    recognizer = BlockingRecognizer()
    _, camera, hub = make_session(recognizer)
    wait_for(lambda: recognizer.entered.acquire(blocking=False), camera)
    for _ in range(5):
        before = len(hub.pictures)
        camera.show()
        wait_for(lambda before=before: len(hub.pictures) > before)
    assert statuses(hub) == ["PENDING"]
    recognizer.release()
    wait_for(lambda: statuses(hub) == ["ASSESSED"])
    recognizer.release()


def test_camera_is_freed_while_the_session_does_not_look(make_session):
    session, camera, hub = make_session()
    wait_for(lambda: statuses(hub) == ["ASSESSED"], camera)
    session.set_enabled(False)
    wait_for(lambda: camera.closed)
    wait_for(lambda: newest(hub)["source_status"] == "INACTIVE")
    assert newest(hub)["people"] == []
    assert not newest(hub)["looking"]
    with pytest.raises(ValueError, match="there is no picture yet"):
        session.save_moment()
    session.set_enabled(True)
    wait_for(lambda: statuses(hub) == ["ASSESSED"], camera)


def test_silent_camera_expires_what_is_shown(make_session):
    _, camera, hub = make_session()
    wait_for(lambda: statuses(hub) == ["ASSESSED"], camera)
    wait_for(lambda: newest(hub)["source_status"] == "CAMERA_SILENT")
    assert statuses(hub) == ["EXPIRED"]
    wait_for(lambda: newest(hub)["source_status"] == "LIVE", camera)


def test_failing_detector_and_recognizer_are_named(make_session):
    def fail(*_):
        raise RuntimeError("out of order")

    detector, recognizer = ScriptedDetector([PERSON]), FakeRecognizer()
    recognizer.assess = fail
    _, camera, hub = make_session(recognizer, detector)
    wait_for(lambda: "recognizer failed" in newest(hub).get("problem", ""), camera)
    detector.detect = fail
    wait_for(lambda: "detector failed" in newest(hub)["problem"], camera)
    assert newest(hub)["source_status"] == "DETECTOR_FAILED"


def test_moment_is_saved_with_blurred_faces_where_they_are_blurred_on_the_page(
    make_session, monkeypatch
):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no face finder
    session, camera, hub = make_session(**{"privacy.blur_faces": True})
    image = noise_image()
    wait_for(lambda: statuses(hub) == ["ASSESSED"], camera)
    path = session.save_moment()
    saved = cv2.imread(path)[..., ::-1]
    rows, columns = PERSON._replace(bottom=80).pixels(320, 240)
    for shown in (hub.pictures[-1].image, saved):
        assert np.std(shown[rows, columns].astype(float)) < 0.5 * np.std(image[rows, columns])
    state = json.loads(Path(path).with_suffix(".json").read_text())
    assert state["people"][0]["label"] == "happiness"


def test_explanation_comes_from_the_model(make_session):
    recognizer = FakeRecognizer()
    session, camera, hub = make_session(recognizer)
    wait_for(lambda: statuses(hub) == ["ASSESSED"], camera)
    person_id = newest(hub)["people"][0]["person_id"]
    with pytest.raises(ValueError, match="function gives no reasons"):
        session.explain(person_id)
    recognizer.explain = lambda scene, person: f"{person.person_id} smiles"
    assert session.explain(person_id) == f"{person_id} smiles"
    with pytest.raises(ValueError, match="p99999: this person is not in view"):
        session.explain("p99999")


def test_missing_camera_and_unreadable_file_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"cannot open camera 63: no such camera"):
        Camera(63)
    with pytest.raises(ValueError, match="it does not exist"):
        Camera(tmp_path / "no.mp4")


def test_video_plays_in_real_time_and_ends(tmp_path):
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 48)
    )
    for _ in range(6):
        writer.write(noise_image(64, 48))
    writer.release()
    camera = Camera(tmp_path / "clip.avi")
    stamps = []
    while not camera.ended or len(stamps) < 1:
        if frame := camera.take(1.0):
            stamps.append(frame.stamp_ns)
    camera.close()
    assert stamps == sorted(set(stamps))
    assert stamps[-1] - stamps[0] <= 10**10
    assert camera.error == ""
