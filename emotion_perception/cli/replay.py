"""Replay a bag or a video: compute what the node would publish, and write a report."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_perception.cli.bag_options import add_bag_arguments, read_bag_options
from emotion_perception.cli.options import add_output_options
from emotion_perception.cli.parser import PROGRAM, Parser

if TYPE_CHECKING:
    from emotion_perception.replay.options import LiveOptions
    from emotion_perception.ros.live_replay import LivePlayer

_ONLY_LIVE = ("lockstep", "rate", "image_topic", "patience")


def add_arguments(parser: Parser) -> None:
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
    add_output_options(parser)
    parser.add_examples(
        "replay my_bag",
        "replay holiday.mp4 -p detector.name:=face -p recognizer.name:=face",
        "replay my_bag --topic /camera/image_raw --labels my_bag.labels.csv --json",
        "replay my_bag --params-file my_robot.yaml --latency 0.8 --start 10 --duration 30",
        "replay my_bag --live --lockstep",
    )


def run(arguments: argparse.Namespace) -> int:
    """Replay with a progress bar; return 0 if the replay is complete, otherwise 1."""
    from emotion_perception.cli.output import Output
    from emotion_perception.core import documents
    from emotion_perception.replay.options import ReplayOptions
    from emotion_perception.replay.session import FIGURES, REPORT, replay

    options = ReplayOptions(
        bag=read_bag_options(arguments),
        latency=arguments.latency,
        labels=arguments.labels,
        images=arguments.images,
        live=_read_live_options(arguments),
        out=arguments.out,
        command=shlex.join([PROGRAM, *sys.argv[1:]]),
    )
    output = Output(arguments)
    with output.progress("images") as progress:
        complete = replay(options, output.remark, progress, open_player)
    result = {
        "complete": complete,
        "folder": str(options.folder),
        "report": str(options.folder / REPORT),
        "figures": documents.read_json_object(options.folder / FIGURES),
    }
    output.result(result, lambda console: None)
    return 0 if complete else 1


def open_player(options: LiveOptions, topic: str) -> LivePlayer:
    """Connect to ROS, which only `--live` needs."""
    from emotion_perception.ros.live_replay import LivePlayer

    return LivePlayer(topic, options.node, options.patience)


def _read_live_options(arguments: argparse.Namespace) -> LiveOptions | None:
    from emotion_perception.replay.options import LiveOptions

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
