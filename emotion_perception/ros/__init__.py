"""The only place that knows ROS 2."""

from __future__ import annotations

BUILD_MESSAGES = (
    "colcon build --base-paths src/emotion_perception "
    "src/emotion_perception/emotion_perception_msgs && source install/setup.bash"
)
"""The command that builds the messages in a workspace, for errors that miss them."""


def start_node() -> int:
    """Run the node; Ctrl-C while its libraries are imported ends it without a traceback.

    Returns:
        The exit status, see `core.process`.
    """
    from emotion_perception.core.process import STOPPED

    try:
        from emotion_perception.ros.main import main
    except KeyboardInterrupt:
        return STOPPED
    return main()
