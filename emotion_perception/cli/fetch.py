"""Download models once, for use without a network."""

from __future__ import annotations

import argparse
import sys

from emotion_perception.core.errors import ModelError
from emotion_perception.core.text import printable
from emotion_perception.installation.fetch import fetch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="a model of the Hugging Face hub (OWNER/NAME), a YOLO file such as yolo11n.pt, "
        "which goes into the current folder, or yolo11n-seg, whose place detectors know",
    )


def run(arguments: argparse.Namespace) -> int:
    """Download each model; return 0 if all were downloaded, otherwise 1."""
    failures = 0
    for name in arguments.names:
        try:
            print(f"{name}: {fetch(name)}")
        except (ModelError, OSError, RuntimeError, ValueError) as error:
            failures += 1
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"cannot fetch {name}: {printable(reason)}", file=sys.stderr)
    return 1 if failures else 0
