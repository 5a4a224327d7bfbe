"""Start the node. An argument without a value leaves its parameter to the parameter file."""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from emotion_perception.core.process import RESPAWN_DELAY_S, should_respawn

PACKAGE = "emotion_perception"
ARGUMENTS = {
    "image": ("image", "topic of the camera images"),
    "camera_info": (
        "",
        "topic of the camera calibration, for ~/markers; default: camera_info beside the image",
    ),
    "image_transport": ("", "raw, or compressed for <image>/compressed"),
    "params_file": (
        PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "emotion_perception.yaml"]),
        "parameter file",
    ),
    "namespace": ("", "namespace of the node"),
    "use_sim_time": ("", "true when a bag is played with --clock"),
    "autostart": ("", "false under a lifecycle manager"),
    "respawn": (
        "false",
        "true: start the node again when it fails, at most 5 times; not after a wrong parameter",
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
            overrides[name] = values[name].lower() == "true"
    folder, slash, _ = values["image"].rpartition("/")
    beside = f"{folder}{slash}camera_info"
    camera_info = values["camera_info"] or beside

    def make_node():
        return Node(
            package=PACKAGE,
            executable="emotion_node",
            namespace=values["namespace"],
            output="screen",
            parameters=[values["params_file"], overrides],
            remappings=[("image", values["image"]), ("camera_info", camera_info)],
            arguments=["--ros-args", "--log-level", values["log_level"]],
        )

    if values["respawn"].lower() == "true":
        return respawning(make_node)
    return [make_node()]


def respawning(make_node, respawns=0):
    """Return actions that start a node, and start it again when it fails.

    Launch's own `respawn` ignores the exit status.
    """
    node = make_node()

    def on_exit(event, context):
        if context.is_shutdown or not should_respawn(event.returncode, respawns):
            return []
        return [TimerAction(period=RESPAWN_DELAY_S, actions=respawning(make_node, respawns + 1))]

    return [node, RegisterEventHandler(OnProcessExit(target_action=node, on_exit=on_exit))]


def generate_launch_description():
    """Declare the arguments and start the actions."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
