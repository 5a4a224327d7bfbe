"""What the launch files start with the values of their arguments, with stand-ins for launch."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from support import launch_stand_in

from emotion_perception.core.launch_arguments import is_true
from emotion_perception.core.process import FAILED, MAX_RESPAWNS, MISCONFIGURED, STOPPED

PARAMETERS = str(Path(__file__).parents[2] / "config" / "emotion_perception.yaml")


@pytest.fixture
def launched(monkeypatch):
    """A function from arguments to the actions of the launch file."""
    module = launch_stand_in.load(monkeypatch, "emotion_perception.launch.py")
    return lambda **values: launch_stand_in.start(module, **{"params_file": PARAMETERS, **values})


def after(actions, status, is_shutdown=False):
    """Return the actions that follow when the node has ended with this status."""
    node, registered = actions
    (handler,) = registered.args
    assert handler.target_action is node
    event, context = SimpleNamespace(returncode=status), SimpleNamespace(is_shutdown=is_shutdown)
    return handler.on_exit(event, context)


def kind(action):
    return type(action).__name__


def test_node_is_started_with_the_name_topics_and_parameters_of_the_arguments(launched):
    node, _ = launched(
        name="mood", namespace="robot1", image="/cam/image_raw", autostart="no", use_sim_time="1",
        image_transport="compressed", depth_image="/cam/depth", log_level="debug",
    )  # fmt: skip
    assert kind(node) == "LifecycleNode"
    assert (node.name, node.namespace) == ("mood", "robot1")
    assert node.parameters == [
        PARAMETERS,
        {
            "image_transport": "compressed",
            "use_sim_time": True,
            "autostart": False,
            "depth.enabled": True,
        },
    ]
    assert node.remappings == [
        ("image", "/cam/image_raw"), ("camera_info", "/cam/camera_info"),
        ("depth/image", "/cam/depth"),
    ]  # fmt: skip
    assert node.arguments == ["--ros-args", "--log-level", "debug"]


@pytest.mark.parametrize("text", ["1", "yes", "True", "TRUE", "on"])
def test_yes_is_written_as_ros_users_write_it(text):
    assert is_true("respawn", text)


@pytest.mark.parametrize("text", ["0", "no", "False", "off"])
def test_no_is_written_as_ros_users_write_it(text):
    assert not is_true("respawn", text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"respawn": "2"}, "cannot use respawn:=2: write true, 1, yes, on or false, 0, no, off"),
        ({"autostart": "truly"}, "cannot use autostart:=truly"),
        ({"use_sim_time": " true"}, "cannot use use_sim_time:= true"),
        ({"on_exit": "stop"}, "cannot use on_exit:=stop: write one of fail, shutdown, ignore"),
        ({"params_file": "/none.yaml"}, "cannot use params_file:=/none.yaml: there is no file"),
        ({"params_file": ""}, "cannot use params_file:=: there is no file"),
        (
            {"params_file": "package://nowhere/x.yaml"},
            "cannot use params_file: cannot find .package://nowhere/x.yaml.",
        ),
    ],
)
def test_wrong_argument_is_an_error_before_the_node_starts(launched, values, message):
    with pytest.raises(ValueError, match=message):
        launched(**values)


def test_failed_node_starts_again_a_bounded_number_of_times_and_then_fails_the_launch(launched):
    actions = launched(respawn="yes")
    for _ in range(MAX_RESPAWNS):
        (timer,) = after(actions, FAILED)
        actions = timer.actions
        # The first action alone handles events of the lifecycle, which name the node.
        assert kind(actions[0]) == "Node"
    with pytest.raises(RuntimeError, match="ended with status 1, started again 5 times"):
        after(actions, FAILED)


@pytest.mark.parametrize("status", [MISCONFIGURED, FAILED, -9])
def test_failed_node_without_respawn_fails_the_launch(launched, status):
    with pytest.raises(RuntimeError, match=f"ended with status {status}, started again 0 times"):
        after(launched(), status)


def test_misconfigured_node_is_not_started_again(launched):
    with pytest.raises(RuntimeError, match="ended with status 2, started again 0 times"):
        after(launched(respawn="true"), MISCONFIGURED)


def test_stopped_node_does_not_fail_the_launch(launched):
    assert after(launched(respawn="true"), STOPPED) == []
    (event,) = after(launched(on_exit="shutdown"), STOPPED)
    assert kind(event) == "EmitEvent"
    assert kind(event.event) == "Shutdown"


def test_failure_that_is_ignored_leaves_the_rest_of_the_launch_running(launched):
    assert after(launched(on_exit="ignore"), FAILED) == []


@pytest.mark.parametrize("on_exit", ["fail", "shutdown", "ignore"])
def test_node_that_is_killed_while_the_launch_ends_changes_nothing(launched, on_exit):
    assert after(launched(respawn="true", on_exit=on_exit), -9, is_shutdown=True) == []
