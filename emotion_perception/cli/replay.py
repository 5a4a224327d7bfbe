"""Replay a recorded bag: compute what the node would publish about it, and write a report."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_perception.cli.bag_options import add_bag_arguments, print_line, read_bag_options
from emotion_perception.cli.options import plain_console, progress_bar
from emotion_perception.replay.options import LiveOptions, ReplayOptions
from emotion_perception.replay.session import replay

if TYPE_CHECKING:
    from emotion_perception.ros.live_replay import LivePlayer

_ONLY_LIVE = ("lockstep", "rate", "image_topic", "patience")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_bag_arguments(parser)
    parser.add_argument(
        "--latency",
        metavar="SECONDS|FILE",
        default="0",
        help="time that the model takes per round: seconds, or the latency.json of a replay on "
        "another machine; default: 0",
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="the ground truth: a CSV file")
    parser.add_argument(
        "--images", action="store_true", help="also write the images into the bag of estimates"
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="play the bag into a running node over real topics, with /clock",
    )
    parser.add_argument(
        "--lockstep", action="store_true", help="with --live: wait for all answers to each image"
    )
    parser.add_argument("--rate", type=float, help="with --live: speed factor; default: 1")
    parser.add_argument(
        "--image-topic", help="with --live: topic to publish to; default: that of the bag"
    )
    parser.add_argument(
        "--patience", type=float, help="with --live: seconds to wait for the node; default: 60"
    )
    parser.add_argument(
        "--out", type=Path, help="run folder; default: out/replay/NAME with the name of the bag"
    )


def run(arguments: argparse.Namespace) -> int:
    """Replay with a progress bar; return 0 if the replay is complete, otherwise 1."""
    options = ReplayOptions(
        bag=read_bag_options(arguments),
        latency=arguments.latency,
        labels=arguments.labels,
        images=arguments.images,
        live=_read_live_options(arguments),
        out=arguments.out,
        command=shlex.join(["emotion-perception", *sys.argv[1:]]),
    )
    console = plain_console(stderr=True)
    with progress_bar(console, "images") as progress:
        complete = replay(options, lambda line: print_line(console, line), progress, open_player)
    return 0 if complete else 1


def open_player(options: LiveOptions, topic: str) -> LivePlayer:
    """Connect to ROS, which only `--live` needs."""
    from emotion_perception.ros.live_replay import LivePlayer

    return LivePlayer(topic, options.node, options.patience)


def _read_live_options(arguments: argparse.Namespace) -> LiveOptions | None:
    values = {name: getattr(arguments, name) for name in _ONLY_LIVE}
    values = {
        name: value for name, value in values.items() if value is not None and value is not False
    }
    if not arguments.live:
        if values:
            option = f"--{next(iter(values)).replace('_', '-')}"
            raise ValueError(f"cannot use {option} without --live: add --live, or remove {option}")
        return None
    if arguments.node:
        values["node"] = arguments.node
    if "image_topic" in values:
        values["topic"] = values.pop("image_topic")
    return LiveOptions(**values)
