"""Fit a calibration on a run over validation data, and write it beside the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from emotion_perception.cli.options import plain_console
from emotion_perception.evaluation.calibration_run import CalibrationOptions, calibrate


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(arguments: argparse.Namespace) -> int:
    """Calibrate and print the effect."""
    options = CalibrationOptions(
        run=arguments.run_folder, check=arguments.check, beta=arguments.beta, out=arguments.out
    )
    calibrate(options, plain_console().print)
    return 0
