"""The launch file, where launch_ros is installed."""

from pathlib import Path

import pytest

pytest.importorskip("launch_ros")

from launch import LaunchContext
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource

LAUNCH = Path(__file__).parents[2] / "launch"

pytestmark = pytest.mark.ros

ARGUMENTS = {
    "emotion_perception.launch.py": {
        "image", "camera_info", "depth_image", "image_transport", "params_file", "name",
        "namespace", "use_sim_time", "autostart", "respawn", "on_exit", "log_level",
    },
    "replay.launch.py": {
        "bag", "image", "image_transport", "camera_info", "params_file", "rate", "start_offset",
        "delay", "record",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_each_documented_argument_is_declared_with_a_description(name):
    context = LaunchContext()
    source = PythonLaunchDescriptionSource(str(LAUNCH / name))
    description = source.get_launch_description(context)
    declared = {action.name: action.description for action in description.get_launch_arguments()}
    assert set(declared) == ARGUMENTS[name]
    assert all(declared.values())


def test_failed_node_is_started_again_but_not_one_that_was_misconfigured():
    context = LaunchContext()
    source = PythonLaunchDescriptionSource(str(LAUNCH / "emotion_perception.launch.py"))
    *declared, opaque = source.get_launch_description(context).entities
    values = {action.name: "" for action in declared}
    values |= {"name": "emotion_node", "on_exit": "fail"}
    values |= {"params_file": str(LAUNCH.parent / "config" / "emotion_perception.yaml")}
    context.launch_configurations.update(values, image="image", respawn="true")
    node, handler = opaque.execute(context)

    def after(status):
        event = ProcessExited(
            action=node, name="node", cmd=[], cwd=None, env=None, pid=1, returncode=status
        )
        return handler.event_handler.handle(event, context)

    assert not after(0)
    with pytest.raises(RuntimeError, match="ended with status 2"):
        after(2)
    (timer,) = after(1)
    assert isinstance(node, type(timer.actions[0])), "a LifecycleNode is a Node"


def test_replay_plays_the_bag_with_a_clock_after_the_node_has_loaded():
    context = LaunchContext()
    context.launch_configurations.update(
        bag="/bags/one", image="/cam", image_transport="compressed", camera_info="",
        params_file="", rate="2.0", start_offset="0.0", delay="3.0", record="/bags/estimates",
    )  # fmt: skip
    source = PythonLaunchDescriptionSource(str(LAUNCH / "replay.launch.py"))
    *_, opaque = source.get_launch_description(context).entities
    node, recorder, timer, _ = opaque.execute(context)
    arguments = dict(node.launch_arguments)
    assert arguments == {"use_sim_time": "true", "image": "/cam", "image_transport": "compressed"}
    (player,) = timer.actions
    words = ["".join(part.text for part in word) for word in player.cmd]
    assert words[:4] == ["ros2", "bag", "play", "/bags/one"]
    assert words[words.index("--clock") + 1] == "100"
    assert "".join(part.text for part in recorder.cmd[2]) == "record"
