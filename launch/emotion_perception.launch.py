"""Start the node. An argument without a value leaves its parameter to the parameter file."""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.substitutions import FindPackageShare

from emotion_perception.core.launch_arguments import choice, existing_file, is_true
from emotion_perception.core.process import RESPAWN_DELAY_S, STOPPED, should_respawn

PACKAGE = "emotion_perception"
ON_EXIT = ("fail", "shutdown", "ignore")
ARGUMENTS = {
    "image": ("image", "topic of the camera images"),
    "camera_info": (
        "",
        "topic of the camera calibration, for ~/markers; default: camera_info beside the image",
    ),
    "depth_image": ("", "topic of the registered depth image, for positions; default: none"),
    "image_transport": ("", "raw, or compressed, ffmpeg or foxglove for <image>/<transport>"),
    "params_file": (
        PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "emotion_perception.yaml"]),
        "parameter file; may be package://PACKAGE/PATH",
    ),
    "name": ("emotion_node", "name of the node"),
    "namespace": ("", "namespace of the node"),
    "use_sim_time": ("", "true when a bag is played with --clock"),
    "autostart": ("", "false under a lifecycle manager"),
    "respawn": (
        "false",
        "true: start the node again when it fails, at most 5 times; not after a wrong parameter",
    ),
    "on_exit": (
        ON_EXIT[0],
        "when the node has ended and is not started again: fail ends the launch with status 1 if "
        "the node failed; shutdown ends it in any case; ignore never does",
    ),
    "log_level": ("info", "debug, info, warn or error"),
}


def start(context):
    """Return the actions for these argument values."""
    values = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides = {}
    if values["image_transport"]:
        overrides["image_transport"] = values["image_transport"]
    for name in ("use_sim_time", "autostart"):
        if values[name]:
            overrides[name] = is_true(name, values[name])
    depth_image = values["depth_image"]
    if depth_image:
        overrides["depth.enabled"] = True
    folder, slash, _ = values["image"].rpartition("/")
    beside = f"{folder}{slash}camera_info"
    camera_info = values["camera_info"] or beside

    options = {
        "package": PACKAGE,
        "executable": "emotion_node",
        "name": values["name"],
        "namespace": values["namespace"],
        "output": "screen",
        "parameters": [existing_file("params_file", values["params_file"]), overrides],
        "remappings": [
            ("image", values["image"]),
            ("camera_info", camera_info),
            ("depth/image", depth_image or "depth/image"),
        ],
        "arguments": ["--ros-args", "--log-level", values["log_level"]],
    }
    # Events of the lifecycle address the node by its name, also after it was started again: the
    # first action handles them, so that the later ones must not.
    return supervised(
        LifecycleNode(**options),
        lambda: Node(**options),
        is_true("respawn", values["respawn"]),
        choice("on_exit", values["on_exit"], ON_EXIT),
    )


def supervised(node, start_again, respawn, on_exit, respawns=0):
    """Return actions that start a node, start it again when it fails, and act on its last end.

    Launch's own `respawn` ignores the exit status, and a process that fails does not change the
    exit status of `ros2 launch`: only an exception does.
    """

    def ended(event, context):
        if context.is_shutdown:
            return []
        if respawn and should_respawn(event.returncode, respawns):
            following = supervised(start_again(), start_again, respawn, on_exit, respawns + 1)
            return [TimerAction(period=RESPAWN_DELAY_S, actions=following)]
        if on_exit == "ignore":
            return []
        if event.returncode != STOPPED:
            raise RuntimeError(
                f"the node ended with status {event.returncode}, started again {respawns} times"
            )
        return [EmitEvent(event=Shutdown(reason="stopped"))] if on_exit == "shutdown" else []

    return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=ended))]


def generate_launch_description():
    """Declare the arguments and start the actions."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
