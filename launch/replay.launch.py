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
    "image_transport": ("", "raw, or compressed for <image>/compressed"),
    "camera_info": ("", "topic of the camera's lens; default: camera_info beside the image"),
    "params_file": ("", "parameter file of the node; default: the package's"),
    "rate": ("1.0", "how fast the bag is played"),
    "start_offset": ("0.0", "seconds after its beginning"),
    "delay": ("10.0", "seconds to wait first, so that the node has loaded its models"),
    "record": ("", "a new bag for what the node says; default: none"),
}
_PASSED_ON = ("image_transport", "camera_info", "params_file")


def start(context):
    """Return the actions for the given arguments."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            str(Path(__file__).with_name("emotion_perception.launch.py"))
        ),
        launch_arguments={
            "image": given["image"],
            "use_sim_time": "true",
            **{name: given[name] for name in _PASSED_ON if given[name]},
        }.items(),
    )
    play = ["ros2", "bag", "play", given["bag"], "--clock", "100", "--rate", given["rate"]]
    player = ExecuteProcess(cmd=[*play, "--start-offset", given["start_offset"]], output="screen")
    topics = ["/emotion_node/emotions", "/diagnostics"]
    recorder = ExecuteProcess(
        cmd=["ros2", "bag", "record", "--use-sim-time", "-o", given["record"], *topics],
        output="screen",
    )
    # The answers to the last images may still be on their way when the bag is over.
    end = TimerAction(period=5.0, actions=[EmitEvent(event=Shutdown(reason="the bag is over"))])
    return [
        node,
        *([recorder] if given["record"] else []),
        TimerAction(period=float(given["delay"]), actions=[player]),
        RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[end])),
    ]


def generate_launch_description():
    """Declare the arguments and start the actions."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
