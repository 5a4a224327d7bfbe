"""The node reads videos of cameras, over real DDS in a process that has their messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")
pytest.importorskip("av")

from lifecycle_msgs.msg import Transition
from support.node_rig import Rig

SCRIPT = Path(__file__).parents[1] / "support" / "video_camera.py"

pytestmark = [pytest.mark.ros, pytest.mark.serial]


@pytest.fixture
def play(interfaces, ros_domain):
    """A function that plays a video into a node, and returns what the node made of it."""

    def run(transport, case):
        done = subprocess.run(
            [sys.executable, str(SCRIPT), transport, case], env=os.environ | interfaces,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize("transport", ["ffmpeg", "foxglove"])
def test_each_image_of_a_video_is_seen(play, transport):
    result = play(transport, "complete")
    assert result["seen"] == list(range(25))
    assert result["difference"] < 6, "mean over the pixels, of 255"
    assert (result["unread"], result["missing"], result["people"]) == (0, 0, 1)


def test_busy_node_sees_the_newest_image_which_those_before_it_complete(play):
    result = play("ffmpeg", "busy")
    assert result["seen"] == [0, 24]
    assert result["difference"] < 6
    assert (result["unread"], result["missing"]) == (0, 23)


def test_images_that_max_rate_leaves_out_complete_the_others(play):
    result = play("foxglove", "slow")
    assert result["seen"] == [0, 5, 10, 15, 20]
    assert result["difference"] < 6
    assert result["unread"] == 0


def test_lost_message_leaves_out_the_images_up_to_the_next_key_image(play):
    result = play("ffmpeg", "lost")
    assert result["seen"] == [0, 1, 2, 3, *range(10, 25)]
    assert result["difference"] < 6
    assert result["unread"] == 4
    assert "an earlier message is missing" in result["unreadable"]


@pytest.fixture
def refused(ros_domain, monkeypatch):
    """A function that returns why a node with this transport cannot be configured."""
    rigs = []

    def configure(transport):
        rig = Rig(ros_domain, parameters={"image_transport": transport})
        rigs.append(rig)
        logged = []
        monkeypatch.setattr(
            type(rig.node.get_logger()), "error", lambda self, text, **_: logged.append(text)
        )
        assert not rig.change(Transition.TRANSITION_CONFIGURE)
        return logged[0]

    yield configure
    for rig in rigs:
        rig.close()


@pytest.mark.parametrize(
    ("transport", "package", "apt"),
    [
        ("ffmpeg", "ffmpeg_image_transport_msgs", "ros-$ROS_DISTRO-ffmpeg-image-transport-msgs"),
        ("foxglove", "foxglove_msgs", "ros-$ROS_DISTRO-foxglove-msgs"),
    ],
)
def test_missing_messages_fail_configure_with_the_package_to_install(
    refused, monkeypatch, transport, package, apt
):
    monkeypatch.setitem(sys.modules, f"{package}.msg", None)
    reason = refused(transport)
    assert f"image_transport = {transport} needs the messages of {package}" in reason
    assert f"sudo apt install {apt}" in reason


def test_missing_pyav_fails_configure(refused, monkeypatch):
    from types import ModuleType, SimpleNamespace

    package, messages = ModuleType("foxglove_msgs"), ModuleType("foxglove_msgs.msg")
    messages.CompressedVideo = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "foxglove_msgs", package)
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", messages)
    monkeypatch.setitem(sys.modules, "av", None)
    assert "image_transport = foxglove is video, which PyAV decodes; install it" in refused(
        "foxglove"
    )
