"""The only place that knows ROS 2."""
