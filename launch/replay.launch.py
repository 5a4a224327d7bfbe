"""Play a bag with `ros2 bag play --clock` into the node, which runs on the bag's clock."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "bag": (None, "folder or file of the bag"),
    "image": ("/camera/image_raw", "topic of the images in the bag"),
    "image_transport": ("", "raw, or compressed, ffmpeg or foxglove for <image>/<transport>"),
    "camera_info": ("", "topic of the camera calibration; default: camera_info beside the image"),
    "params_file": ("", "parameter file of the node; default: the package's"),
    "rate": ("1.0", "speed of playback; 2 is twice as fast as recorded"),
    "start_offset": ("0.0", "seconds of the bag to skip at its beginning"),
    "delay": ("10.0", "seconds to wait before playback, so that the node has loaded its models"),
    "record": ("", "new bag for the estimates and diagnostics; default: none"),
}
_PASSED_ON = ("image_transport", "camera_info", "params_file")


def start(context):
    """Return the actions for these argument values."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            str(Path(__file__).with_name("emotion_perception.launch.py"))
        ),
        launch_arguments={
            "image": values["image"],
            "use_sim_time": "true",
            **{name: values[name] for name in _PASSED_ON if values[name]},
        }.items(),
    )
    play = ["ros2", "bag", "play", values["bag"], "--clock", "100", "--rate", values["rate"]]
    player = ExecuteProcess(cmd=[*play, "--start-offset", values["start_offset"]], output="screen")
    topics = ["/emotion_node/emotions", "/diagnostics"]
    recorder = ExecuteProcess(
        cmd=["ros2", "bag", "record", "--use-sim-time", "-o", values["record"], *topics],
        output="screen",
    )
    # The node may still publish estimates for the last images when the bag ends.
    end = TimerAction(period=5.0, actions=[EmitEvent(event=Shutdown(reason="the bag is over"))])
    return [
        node,
        *([recorder] if values["record"] else []),
        TimerAction(period=float(values["delay"]), actions=[player]),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end])),
    ]


def generate_launch_description():
    """Declare the arguments and start the actions."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
