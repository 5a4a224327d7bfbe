"""Train a linear head on a frozen model's states, and keep it beside the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.options import add_parameters, plain_console, read_parameters
from emotion_perception.core.settings import vlm_settings
from emotion_perception.evaluation.datasets import emotic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--root", type=Path, required=True, help="the folder of the data set")
    parser.add_argument("--split", default="train", help="to fit on; default: train")
    parser.add_argument("--val-split", default="val", help="to choose the layer on; default: val")
    parser.add_argument("--model", required=True, help="recognizer.model")
    parser.add_argument("--adapter", default="", help="recognizer.adapter")
    add_parameters(parser, "any other setting of the recognizer")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if arguments.split == arguments.val_split:
        raise ValueError("--split and --val-split are the same: choose the layer on other people")
    values = {
        "model": arguments.model,
        "adapter": arguments.adapter,
        **read_parameters(arguments.parameter),
    }
    settings = vlm_settings(values)
    fitted = emotic.load(arguments.root, arguments.split)
    chosen = emotic.load(arguments.root, arguments.val_split)
    from emotion_perception.training.linear_head import train

    console = plain_console()
    folder, value = train(settings, fitted, chosen, console.print)
    console.print(
        f"head.safetensors written to {folder}, mAP {value:.4f} on {chosen.split}; "
        "use it with `-p recognizer.scoring:=head`"
    )
    return 0
