"""The launch file, where launch_ros is installed."""

from pathlib import Path

import pytest

pytest.importorskip("launch_ros")

from launch import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource

LAUNCH = Path(__file__).parents[1] / "launch" / "emotion_perception.launch.py"

pytestmark = pytest.mark.ros


def test_every_promised_argument_is_declared_with_a_description():
    context = LaunchContext()
    description = PythonLaunchDescriptionSource(str(LAUNCH)).get_launch_description(context)
    declared = {action.name: action.description for action in description.get_launch_arguments()}
    promised = {
        "image", "image_transport", "params_file", "namespace", "use_sim_time", "autostart",
        "log_level",
    }  # fmt: skip
    assert set(declared) == promised
    assert all(declared.values())
