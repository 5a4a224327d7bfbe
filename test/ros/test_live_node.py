"""The live page of a running node: its images with its messages, and what a page can ask."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from emotion_perception.live.hub import Hub
from emotion_perception.ros import live_node
from emotion_perception.ros.live_node import LiveNode
from emotion_perception.testing.fakes import FakeRecognizer, noise_image

pytestmark = [pytest.mark.ros, pytest.mark.serial]


class Watcher(Hub):
    """A hub that keeps the newest picture."""

    newest = None

    def publish(self, picture):
        self.newest = picture()

    def state(self, name):
        return self.newest.state[name] if self.newest else None


class Talker(FakeRecognizer):
    """A recognizer that gives reasons."""

    def explain(self, scene, person):
        return f"{person.person_id} smiles"


@pytest.fixture
def watched(rig, tmp_path):
    """A node, and the page's view of it."""
    robot, hub = rig(recognizer=Talker()).start(), Watcher()
    with (
        LiveNode(hub, "/image", "/emotion_node", "raw", tmp_path) as live,
        ThreadPoolExecutor(1) as pool,
    ):

        def ask(call, *arguments):
            answer = pool.submit(call, *arguments)
            robot.until(answer.done)
            return answer.result()

        robot.until(lambda: robot.camera.get_subscription_count() == 2)
        robot.until(lambda: robot.node.count_subscribers("emotion_node/emotions") == 2)
        yield robot, hub, live, ask


def show_until(robot, hub, condition):
    """Show images until one is on the page and the condition holds; some are lost on the way."""
    image = noise_image()
    for second in range(1, 100):
        robot.show(second, image)
        robot.until(lambda second=second: hub.state("stamp_ns") == second * 10**9)
        robot.spin(0.1)  # the image may come after its message
        if hub.newest.image is None:
            assert "no image on /image has the stamp" in hub.state("problem")
        elif condition():
            assert np.array_equal(hub.newest.image, image)
            assert hub.state("problem") == ""
            return
    raise AssertionError("the page never showed it")


def test_page_shows_the_image_of_each_message(watched):
    robot, hub, _, _ = watched
    show_until(robot, hub, lambda: [p["status"] for p in hub.state("people")] == ["ASSESSED"])
    assert hub.state("looking")
    assert hub.state("people")[0]["label"] == "happiness"


def test_page_enables_explains_and_saves(watched, tmp_path):
    robot, hub, live, ask = watched
    show_until(robot, hub, lambda: hub.state("people"))
    assert ask(live.save_moment).startswith(str(tmp_path))
    person_id = hub.state("people")[0]["person_id"]
    assert hub.state("can_explain")
    assert ask(live.explain, person_id) == f"{person_id} smiles"
    with pytest.raises(ValueError, match="p99999"):
        ask(live.explain, "p99999")
    ask(live.set_enabled, False)
    robot.until(lambda: hub.state("source_status") == "INACTIVE")
    assert not hub.state("looking")


def test_page_names_a_node_that_is_silent(watched, monkeypatch):
    robot, hub, _, _ = watched
    robot.show(1)
    monkeypatch.setattr(live_node, "_SILENCE_S", 0.0)
    robot.until(lambda: "no message of /emotion_node" in (hub.state("problem") or ""))


def test_page_names_a_missing_node(ros_domain, tmp_path):
    with (
        LiveNode(Watcher(), "/image", "/gone", "raw", tmp_path) as live,
        pytest.raises(ValueError, match="cannot ask /gone: there is no service /gone/set_enabled"),
    ):
        live.set_enabled(True)
