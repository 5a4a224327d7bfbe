"""Run the demo: a drawn scene and two photographs, or images and models of your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.options import add_parameters
from emotion_perception.cli.parser import Parser
from emotion_perception.core.settings import SETTINGS


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("--world", action="store_true", help="play only the drawn scene")
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="length of the drawn scene; default: 12"
    )
    parser.add_argument("--seed", type=int, default=6, help="seed of the drawn scene; default: 6")
    parser.add_argument(
        "--detector",
        # No node of the demo publishes boxes.
        choices=[name for name in SETTINGS["detector.name"].choices if name != "topic"],
        default="face",
        help="detector of people; default: face",
    )
    parser.add_argument("--detector-model", help="the model of --detector yolo or detr")
    parser.add_argument(
        "--recognizer",
        choices=SETTINGS["recognizer.name"].choices,
        default="face",
        help="recognizer; default: face",
    )
    parser.add_argument("--model", help="a hub name or folder, for --recognizer vlm")
    parser.add_argument(
        "--source", help="an image, a video, or a folder of them, instead of the two parts"
    )
    parser.add_argument(
        "--transport",
        choices=("raw", "compressed"),
        default="raw",
        help="transport of the images; default: raw",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="output folder; default: out/demo"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=180.0,
        help="seconds to wait for the node to start, and for the answers to a clip; default: 180",
    )
    add_parameters(parser, "a parameter of the node, such as `-p smoothing:=0.0`")
    parser.add_examples(
        "demo",
        "demo --world --seconds 20",
        "demo --source my_photo.jpg --detector yolo --detector-model yolo11n.pt",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if each clip got its answers in time, otherwise 1."""
    from emotion_perception.cli.output import plain_console
    from emotion_perception.installation.demo import DemoOptions, run_demo

    options = DemoOptions(
        world=arguments.world,
        seconds=arguments.seconds,
        seed=arguments.seed,
        detector=arguments.detector,
        detector_model=arguments.detector_model,
        recognizer=arguments.recognizer,
        model=arguments.model,
        source=arguments.source,
        transport=arguments.transport,
        out=arguments.out,
        patience=arguments.patience,
        parameters=arguments.parameter,
    )
    return 0 if run_demo(options, plain_console()) else 1
