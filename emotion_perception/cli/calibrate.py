"""Fit a calibration on a run over validation data, and write it beside the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.options import add_output_options
from emotion_perception.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="run folder of `evaluate system --split val`"
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="RUN",
        help="another run of the same system, to measure the calibration on",
    )
    parser.add_argument(
        "--beta", type=float, help="thresholds for the best F-beta; default: precision = recall"
    )
    parser.add_argument(
        "--out", type=Path, help="file to write; default: beside the adapter or model"
    )
    add_output_options(parser)
    parser.add_examples(
        "calibrate out/evaluate/vlm-ours-val",
        "calibrate out/evaluate/vlm-ours-val --check out/evaluate/vlm-ours-test --out my.yaml",
    )


def run(arguments: argparse.Namespace) -> int:
    """Calibrate and print the effect."""
    from emotion_perception.cli.output import Output
    from emotion_perception.evaluation.calibration_run import CalibrationOptions, calibrate

    options = CalibrationOptions(
        run=arguments.run_folder, check=arguments.check, beta=arguments.beta, out=arguments.out
    )
    output = Output(arguments)
    path, effects = calibrate(options, output.remark)
    lines = [
        f"{measure} on {data}: {before:.4f} before, {after:.4f} after"
        for data, measures in effects.items()
        for measure, (before, after) in measures.items()
    ]
    output.result(
        {"calibration": str(path), "effects": effects},
        lambda console: console.print(*lines, f"written to {path}", sep="\n", soft_wrap=True),
    )
    return 0
