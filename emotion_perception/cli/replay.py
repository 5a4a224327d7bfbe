"""What the node would have said about a recorded bag, the same at every speed."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emotion_perception.bags import Bag
from emotion_perception.cli.tables import add_parameters, plain_console, read_parameters
from emotion_perception.evaluation.replay import replay
from emotion_perception.perception import Perception
from emotion_perception.records import people_to_json
from emotion_perception.settings import Settings, read_parameter_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", type=Path, help="a ROS 2 bag (sqlite3, MCAP) or a ROS 1 .bag file")
    parser.add_argument("--topic", default="", help="of the images; default: the only one")
    parser.add_argument("--params-file", type=Path, help="a parameter file of the node")
    add_parameters(parser, "a parameter of the node, as in `-p recognizer.name:=face`")
    parser.add_argument(
        "--latency",
        type=float,
        default=0.0,
        help="seconds that the model takes for an answer; default 0: it answers at once",
    )
    parser.add_argument("--every", type=int, default=1, help="look at every so manieth image")
    parser.add_argument("--start", type=float, default=0.0, help="seconds after the beginning")
    parser.add_argument("--duration", type=float, help="seconds from there; default: to the end")
    parser.add_argument("--out", type=Path, default=Path("out/replay"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.every < 1:
        raise ValueError(f"--every {arguments.every}: choose 1 for every image, 2 for every other")
    values: dict[str, Any] = {}
    if arguments.params_file:
        values |= read_parameter_file(arguments.params_file)
    settings = Settings.of(values | read_parameters(arguments.parameter))
    from emotion_perception.detection import make_detector
    from emotion_perception.recognizers import make_recognizer

    console = plain_console(stderr=True)
    with Bag(arguments.bag, arguments.topic) as bag:
        detector, recognizer = (
            make_detector(settings.detector),
            make_recognizer(settings.recognizer),
        )
        perception = Perception(detector, recognizer, settings)
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / "emotions.jsonl"
        # Under another name until it is whole, so that half a replay is not taken for one.
        partial = path.with_suffix(".partial")
        columns = (
            *(TextColumn("{task.description}"), BarColumn()),
            *(MofNCompleteColumn(), TimeRemainingColumn()),
        )
        lines = images = 0
        with (
            partial.open("w") as file,
            Progress(*columns, TimeRemainingColumn(), console=console) as bar,
        ):
            task = bar.add_task(bag.topic, total=len(bag))

            def looked_at() -> Any:
                nonlocal images
                for number, frame in enumerate(bag.frames(arguments.start, arguments.duration)):
                    bar.update(task, completed=number + 1)
                    if frame is not None and number % arguments.every == 0:
                        images += 1
                        yield frame

            damaged = ""
            try:
                for people in replay(looked_at(), perception, recognizer, arguments.latency):
                    file.write(json.dumps(people_to_json(people)) + "\n")
                    lines += 1
            except ValueError as error:
                damaged = str(error)
        detector.close()
        recognizer.close()
    for reason, count in bag.skipped.items():
        console.print(f"{count} messages left out: {reason}")
    if not images:
        raise ValueError(f"{arguments.bag} has no image on {bag.topic} in that time: {damaged}")
    os.replace(partial, path)
    console.print(f"{lines} messages about {images} images written to {path}")
    if damaged:
        console.print(f"{damaged}; what came before is kept")
    return 1 if damaged else 0
