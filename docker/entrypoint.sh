#!/bin/bash
# Run a command with ROS and the workspace of the image; `exec` passes signals to the node.
source /ws/install/setup.bash
exec "$@"
