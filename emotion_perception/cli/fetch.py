"""Download models once, for use without a network."""

from __future__ import annotations

import argparse
import contextlib
import sys

from emotion_perception.cli.options import add_output_options
from emotion_perception.cli.parser import Parser
from emotion_perception.core.errors import ModelError
from emotion_perception.core.text import printable


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a model of the Hugging Face hub (OWNER/NAME), a YOLO file such as yolo11n.pt, "
        "which goes into the current folder, or yolo11n-seg, whose place detectors know",
    )
    add_output_options(parser)
    parser.add_examples("fetch HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "fetch yolo11n.pt")


def run(arguments: argparse.Namespace) -> int:
    """Download each model; return 0 if all were downloaded, otherwise 1."""
    from emotion_perception.cli.output import Output
    from emotion_perception.installation.fetch import fetch

    places: dict[str, str] = {}
    for name in arguments.names:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # where ultralytics reports a download
                places[name] = str(fetch(name))
        except (ModelError, OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"cannot fetch {name}: {printable(reason)}", file=sys.stderr)
    lines = "\n".join(f"{name}: {place}" for name, place in places.items())
    Output(arguments).result(places, lambda console: print(lines) if lines else None)
    return 1 if len(places) < len(set(arguments.names)) else 0
