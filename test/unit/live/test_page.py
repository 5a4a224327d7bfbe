"""The page in a real browser: people, buttons, and no request to anywhere else."""

import json
import threading
import time

import pytest

pytest.importorskip("supervision")
uvicorn = pytest.importorskip("uvicorn")

from emotion_perception.core.settings import Settings
from emotion_perception.core.values import Box
from emotion_perception.live.camera import Camera
from emotion_perception.live.hub import Hub
from emotion_perception.live.server import LiveServer, bind
from emotion_perception.live.session import LiveSession
from emotion_perception.testing.fakes import FakeRecognizer, ScriptedDetector, noise_image

pytestmark = pytest.mark.serial


class Talker(FakeRecognizer):
    """A recognizer that gives reasons."""

    def explain(self, scene, person):
        return f"{person.person_id} smiles <b>broadly</b>"


@pytest.fixture
def live(tmp_path):
    """A session over a still image, served on loopback; its address and session."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "room.png"), noise_image(640, 480))
    hub = Hub()
    session = LiveSession(
        lambda: Camera(tmp_path / "room.png"),
        ScriptedDetector([Box(60, 60, 240, 460), Box(380, 60, 560, 460)]),
        Talker(),
        Settings.from_dict({"scheduler.refresh": 0.2, "visibility.min_sharpness": 0.0}),
        hub,
        tmp_path / "moments",
    )
    server = LiveServer(hub, session)
    with bind("127.0.0.1", 0) as listening:
        config = uvicorn.Config(server.app, log_level="warning", ws="wsproto")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=([listening],))
        thread.start()
        session.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/?token={server.token}", tmp_path
        running.should_exit = True
        session.close()
        thread.join(20)


def shows(browser, selector, expected):
    script = "return document.querySelector(arguments[0]).innerText"
    end = time.monotonic() + 30
    while expected not in (text := browser.execute_script(script, selector)):
        assert time.monotonic() < end, f"{selector} shows {text!r}"
        time.sleep(0.05)
    return text


def test_page_shows_people_and_does_what_is_asked(browser, live):
    address, folder = live
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)
    shows(browser, "#people", "p00001 happiness 0.90")
    assert "token" not in browser.current_url
    assert browser.execute_script("return document.querySelectorAll('#boxes rect').length") == 2
    assert browser.execute_script("return document.getElementById('image').width") == 640
    shows(browser, "#facts", "function")
    browser.execute_script("document.querySelectorAll('#people button')[1].click()")
    shows(browser, "#name", "p00002")
    browser.find_element("id", "explain").click()
    shows(browser, "#rationale", "p00002 smiles <b>broadly</b>")
    browser.find_element("id", "save").click()
    shows(browser, "#note", "moment-")
    assert len(list((folder / "moments").iterdir())) == 2
    browser.find_element("id", "enable").click()
    shows(browser, "#looking", "not looking")
    assert browser.execute_script("return document.querySelectorAll('#boxes rect').length") == 0
    browser.find_element("id", "enable").click()
    shows(browser, "#looking", "looking at room.png")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    own = address.partition("/?")[0]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert urls
    assert all(url.startswith((own, "blob:", "data:")) for url in urls)
    browser.get("about:blank")
