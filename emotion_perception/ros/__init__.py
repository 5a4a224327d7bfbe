"""The only place that knows ROS 2."""

BUILD_MESSAGES = (
    "colcon build --base-paths src/emotion_perception "
    "src/emotion_perception/emotion_perception_msgs && source install/setup.bash"
)
"""The command that builds the messages in a workspace, for errors that miss them."""
