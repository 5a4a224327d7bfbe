"""What another participant of the ROS network cannot make the node do."""

import os
import subprocess
import sys

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from sensor_msgs.msg import Image
from support import fake_server

from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.settings import NODE_PARAMETERS, SETTINGS
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.testing.fakes import FakeRecognizer

pytestmark = [pytest.mark.ros, pytest.mark.serial]

ATTACK = """
import sys

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter

rclpy.init()
node = rclpy.create_node("attacker")

def call(kind, name, request):
    client = node.create_client(kind, f"/emotion_node/{name}")
    assert client.wait_for_service(20.0), name
    answer = client.call_async(request)
    rclpy.spin_until_future_complete(node, answer, timeout_sec=20.0)
    return answer.result()

def change(transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    print("transition", transition, call(ChangeState, "change_state", request).success)

change(Transition.TRANSITION_DEACTIVATE)
change(Transition.TRANSITION_CLEANUP)
values = {
    "allow_reconfigure": True,
    "allowed_hosts": ["127.0.0.1", "evil.example"],
    "recognizer.name": "remote",
    "recognizer.remote.url": sys.argv[1],
    "recognizer.remote.retries": 0,
}
wanted = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
for name, result in zip(values, call(SetParameters, "set_parameters",
                                     SetParameters.Request(parameters=wanted)).results):
    print("set", name, result.successful, result.reason)
request = SetParametersAtomically.Request(parameters=wanted)
print("atomically", call(SetParametersAtomically, "set_parameters_atomically", request).result)
change(Transition.TRANSITION_CONFIGURE)
change(Transition.TRANSITION_ACTIVATE)
"""


@pytest.fixture
def logged(monkeypatch):
    """The lines that nodes log, by level."""
    lines = {"info": [], "warning": [], "error": []}
    kind = type(rclpy.logging.get_logger("any"))
    for level, kept in lines.items():
        monkeypatch.setattr(kind, level, lambda self, text, _kept=kept, **_: _kept.append(text))
    return lines


def attack(r, url):
    """Run the attack in a process of its own until it ends, and return what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-c", ATTACK, url], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        r.until(lambda: process.poll() is not None, seconds=60)
    finally:
        process.kill()
        printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


def test_reconfiguration_from_another_process_is_refused_and_logged(rig, logged, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with fake_server.running() as server:
        r = rig().start()
        r.show(1.0)
        printed = attack(r, server.url)
        for second in range(2, 6):
            r.show(float(second))
        assert (server.chats, server.headers) == ([], [])
        assert server.requests == 0
    for name in ("allow_reconfigure", "allowed_hosts", "recognizer.name", "recognizer.remote.url",
                 "recognizer.remote.retries"):  # fmt: skip
        (line,) = [line for line in printed.splitlines() if line.startswith(f"set {name} ")]
        assert line.startswith(f"set {name} False"), line
        assert name in line.partition("False")[2], line
        assert any(name in text for text in logged["warning"]), name
    assert "atomically rcl_interfaces.msg.SetParametersResult(successful=False" in printed
    assert any(server.url in text for text in logged["warning"])
    assert "start the node with" in printed
    assert r.node.settings.recognizer.name == "vlm"


def test_reconfigured_url_stays_in_the_allowed_hosts(rig, logged):
    r = rig(
        parameters={
            "allow_reconfigure": True,
            "recognizer.name": "remote",
            "recognizer.remote.url": "http://robot-gpu:8000/v1",
        }
    )
    for url in ("http://evil.example/v1", "http://127.0.0.1/v1", "http://robot-gpu@evil.example/v1",
                "http://robot-gpu.evil.example/v1"):  # fmt: skip
        refused = r.set("recognizer.remote.url", url)
        assert not refused.successful, url
        assert "recognizer.remote.url" in refused.reason
    assert "allowed hosts are robot-gpu" in r.set("recognizer.remote.url", "http://e/v1").reason
    assert r.set("recognizer.remote.url", "https://ROBOT-GPU/v2").successful
    assert r.set("detector.name", "face").successful


def test_url_at_the_start_must_be_in_the_allowed_hosts(rig, logged):
    remote = {"recognizer.name": "remote", "allowed_hosts": ["127.0.0.1:8000"]}
    r = rig(parameters={**remote, "recognizer.remote.url": "http://127.0.0.1:8001/v1"})
    assert r.node.trigger_configure().name == "FAILURE"
    assert "cannot send images to 127.0.0.1:8001" in logged["error"][0]


def test_allowed_port_is_accepted(rig, logged):
    remote = {"recognizer.name": "remote", "allowed_hosts": ["127.0.0.1:8000"]}
    rig(parameters={**remote, "recognizer.remote.url": "http://127.0.0.1:8000/v1"}).start()
    assert any("http://127.0.0.1:8000/v1" in text for text in logged["info"])
    assert not any("unencrypted" in text for text in logged["warning"])


def test_unencrypted_destination_is_logged(rig, logged):
    remote = {"recognizer.name": "remote", "recognizer.remote.url": "http://robot-gpu:8000/v1"}
    rig(parameters=remote).start()
    assert any("robot-gpu unencrypted" in text for text in logged["warning"])


def test_local_recognizer_is_logged_as_no_destination(rig, logged):
    rig().start()
    assert "images are sent to no server" in logged["info"]


def test_destination_is_logged_before_the_first_request(rig, logged):
    with fake_server.running() as server:
        requests = []

        def make(settings):
            requests.append([text for text in logged["info"] if server.url in text])
            return make_recognizer(settings)

        remote = {"recognizer.name": "remote", "recognizer.remote.url": server.url}
        rig(parameters=remote, make_recognizer=make).start()
        assert len(requests[0]) == 1


def other_value(setting):
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    return {bool: not setting.default, str: "other", int: 2, float: 2.0}[setting.type]


def test_each_parameter_that_chooses_what_is_loaded_keeps_its_start_value(rig):
    r = rig()
    for name, setting in SETTINGS.items():
        if not setting.start_only:
            continue
        refused = r.set(name, other_value(setting))
        assert not refused.successful, name
        assert name in refused.reason
        assert r.set(name, setting.default).successful, "the start value itself"
        assert not r.set(name, None).successful, "to delete it"
        assert r.node.get_parameter(name).value == setting.default
    files = ("model", "adapter", "calibration", "captions", "words", "name", "url", "retries")
    for name, setting in SETTINGS.items():
        assert setting.start_only or name.rpartition(".")[2] not in files, name
        assert setting.start_only or setting.type is not str or setting.choices, name
    assert r.set("tracker.min_iou", 0.5).successful


@pytest.mark.parametrize("value", [[], [""], ["a", "b"]])
def test_permissions_are_declared_read_only(rig, value):
    r = rig(parameters={"allowed_hosts": value} if value else {})
    for name in NODE_PARAMETERS:
        assert r.node.describe_parameter(name).read_only
        assert "read-only" in r.set(name, r.node.get_parameter(name).value).reason
    assert r.node.get_parameter("allowed_hosts").value == (value or [""])


def test_allowed_hosts_of_a_wrong_type_fail_configure(rig, logged):
    r = rig(parameters={"allowed_hosts": "robot-gpu"})
    assert r.node.trigger_configure().name == "FAILURE"
    assert "allowed_hosts = 'robot-gpu'" in logged["error"][0]


def test_reason_of_a_refusal_is_one_short_line(rig, logged):
    refused = rig().set("recognizer.model", "\x1b[2J\n" + "x" * 100_000)
    assert len(refused.reason) <= 500
    assert refused.reason.isprintable()
    assert max(map(len, logged["warning"])) <= 600


def test_texts_of_a_hostile_camera_are_short_and_harmless(rig, logged):
    r = rig().start()
    name = "\x1b[2J\n" + "e" * 100_000
    hostile = Image(encoding=name, height=2, width=2, step=6, data=bytes(12))
    hostile.header.frame_id = name
    for second in range(1, 4):
        hostile.header.stamp.sec = second
        r.camera.publish(hostile)
        r.until(lambda count=second: r.node._camera.health.unread >= count)
    r.until(lambda: "could not be read" in r.findings.get("camera", (0, ""))[1])
    message = r.findings["camera"][1]
    assert message.isprintable()
    assert len(message) <= 500
    r.until(lambda: any("could not be read" in text for text in logged["warning"]))
    assert all(len(text) <= 600 and text.isprintable() for text in logged["warning"])


@pytest.mark.parametrize("error", [RecognizerError, RuntimeError])
def test_error_of_a_model_is_short_and_harmless_in_the_log(rig, logged, error):
    def fail(person):
        raise error("\x1b[2J\x07" + "e" * 100_000)

    r = rig(recognizer=FakeRecognizer(fail)).start()
    r.show(1.0)
    r.show(1.1)
    r.until(lambda: any("e" * 50 in text for text in logged["warning"] + logged["error"]))
    for text in logged["warning"] + logged["error"]:
        assert "\x1b" not in text
        assert len(text) < 11_000
    r.until(lambda: r.findings.get("recognizer", (0, ""))[1].startswith("failures in a row"))
    assert r.findings["recognizer"][1].isprintable()
    assert len(r.findings["recognizer"][1]) <= 500
