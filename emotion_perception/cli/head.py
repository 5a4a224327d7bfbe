"""Train a linear head on the hidden states of a frozen model, and save it beside the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.options import (
    MODEL_OPTIONS,
    add_model_options,
    add_output_options,
    add_parameters,
    read_model_options,
)
from emotion_perception.cli.parser import Parser
from emotion_perception.core.settings import vlm_settings


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", default="train", help="split to fit on; default: train")
    parser.add_argument(
        "--val-split", default="val", help="split that selects the layer; default: val"
    )
    parser.add_argument(
        "--keep-shared",
        action="store_true",
        help="keep images of the split that are also in val or test",
    )
    parser.add_argument("--model", required=True, help=MODEL_OPTIONS["model"])
    add_model_options(parser, ("adapter",))
    add_parameters(parser)
    add_output_options(parser)
    parser.add_examples("head --root EMOTIC --model my_vlm")


def run(arguments: argparse.Namespace) -> int:
    """Train the head and print how to use it."""
    from emotion_perception.cli.output import Output
    from emotion_perception.training.linear_head import HeadOptions, train_head

    options = HeadOptions(
        settings=vlm_settings(read_model_options(arguments)),
        root=arguments.root,
        split=arguments.split,
        val_split=arguments.val_split,
        keep_shared=arguments.keep_shared,
    )
    output = Output(arguments)
    folder, mean_ap = train_head(options, output.remark)
    output.result(
        {"folder": str(folder), "map": mean_ap},
        lambda console: console.print(
            f"head.safetensors written to {folder}, mAP {mean_ap:.4f} on {options.val_split}; "
            "use it with `-p recognizer.scoring:=head`",
            soft_wrap=True,
        ),
    )
    return 0
