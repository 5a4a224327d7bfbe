"""Write a table of the tracks in a bag, to fill in with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.bag_options import add_bag_arguments, read_bag_options
from emotion_perception.cli.options import add_output_options
from emotion_perception.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    add_bag_arguments(parser)
    parser.add_argument(
        "--out", type=Path, help="CSV file or folder; default: NAME.labels.csv beside the bag"
    )
    add_output_options(parser)
    parser.add_examples(
        "annotate my_bag -p detector.name:=yolo",
        "annotate my_bag --topic /camera/image_raw --start 10 --duration 30 --out labels.csv",
    )


def run(arguments: argparse.Namespace) -> int:
    """Annotate with a progress bar; return 0 if the whole bag was read, otherwise 1."""
    from emotion_perception.cli.output import Output
    from emotion_perception.replay.annotation import annotate
    from emotion_perception.replay.options import AnnotationOptions

    options = AnnotationOptions(bag=read_bag_options(arguments), out=arguments.out)
    output = Output(arguments)
    with output.progress("images") as progress:
        complete = annotate(options, output.remark, progress)
    output.result({"complete": complete, "table": str(options.table)}, lambda console: None)
    return 0 if complete else 1
