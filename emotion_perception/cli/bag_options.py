"""The options of `replay` and `annotate` that select images of a recording."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_perception.cli.options import add_parameters, read_parameters

if TYPE_CHECKING:
    from emotion_perception.replay.options import BagOptions


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select images of a bag and settings of the node."""
    parser.add_argument(
        "bag",
        type=Path,
        help="a ROS 2 bag (SQLite, MCAP), a ROS 1 .bag file, or a video (.mp4, ...)",
    )
    parser.add_argument(
        "--topic",
        default="",
        help="image topic; default: the only one of a bag, /camera/image_raw for a video",
    )
    parser.add_argument("--params-file", type=Path, help="a parameter file of the node")
    parser.add_argument(
        "--node",
        default="",
        help="full name of the node, in the parameter file or for --live; default: /emotion_node, "
        "or the only one in the file",
    )
    add_parameters(parser, "a parameter of the node, such as `-p recognizer.name:=face`")
    parser.add_argument(
        "--every", type=int, default=1, help="decode only every n-th image; default: 1"
    )
    parser.add_argument("--start", type=float, default=0.0, help="seconds after the first image")
    parser.add_argument("--duration", type=float, help="seconds after --start; default: to the end")


def read_bag_options(arguments: argparse.Namespace) -> BagOptions:
    """Return the values of the options of `add_bag_arguments`.

    Raises:
        ValueError: A value is not allowed.
    """
    from emotion_perception.replay.options import BagOptions

    return BagOptions(
        path=arguments.bag,
        topic=arguments.topic,
        every=arguments.every,
        start=arguments.start,
        duration=arguments.duration,
        params_file=arguments.params_file,
        node=arguments.node,
        parameters=read_parameters(arguments.parameter),
    )
