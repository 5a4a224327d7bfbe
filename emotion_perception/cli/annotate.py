"""Write a table of the tracks in a bag, to fill in with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.bag_options import add_bag_arguments, print_line, read_bag_options
from emotion_perception.cli.options import plain_console, progress_bar
from emotion_perception.replay.annotation import annotate
from emotion_perception.replay.options import AnnotationOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_bag_arguments(parser)
    parser.add_argument(
        "--out", type=Path, help="CSV file or folder; default: NAME.labels.csv beside the bag"
    )


def run(arguments: argparse.Namespace) -> int:
    """Annotate with a progress bar; return 0 if the whole bag was read, otherwise 1."""
    options = AnnotationOptions(bag=read_bag_options(arguments), out=arguments.out)
    console = plain_console(stderr=True)
    with progress_bar(console, "images") as progress:
        complete = annotate(options, lambda line: print_line(console, line), progress)
    return 0 if complete else 1
