"""Fit what a model's scores mean on a run over validation data, and keep it beside the model."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console

from emotion_perception import calibration
from emotion_perception.emotions import EMOTIC_LABELS
from emotion_perception.evaluation import metrics
from emotion_perception.evaluation.runs import Run
from emotion_perception.settings import RecognizerSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="of `evaluate --split val`")
    parser.add_argument(
        "--check",
        type=Path,
        metavar="RUN",
        help="another run of the same system, to measure the calibration on",
    )
    parser.add_argument(
        "--beta", type=float, help="thresholds for the best F-beta; default: precision = recall"
    )
    parser.add_argument("--out", type=Path, help="default: beside the adapter or model")


def run(arguments: argparse.Namespace) -> int:
    fitted = Run.read(arguments.run_folder)
    columns = [EMOTIC_LABELS.index(label) for label in fitted.about["known"]]
    truth, scores = _of(fitted, columns)
    found = calibration.fit(
        truth,
        scores,
        fitted.about["known"],
        system=fitted.about["recognizer"],
        asked=fitted.about.get("asked", {}),
        data=fitted.about["data"],
        beta=arguments.beta,
    )
    path = arguments.out or _beside(fitted)
    console = Console()
    if arguments.check:
        checked = Run.read(arguments.check)
        if checked.about["recognizer"] != fitted.about["recognizer"]:
            raise ValueError(f"{arguments.check} is a run of another system")
        if checked.about["data"] == fitted.about["data"]:
            raise ValueError(f"{arguments.check} is over the same data: check on another split")
        truth, scores = _of(checked, columns)
        for name, measure in (
            ("calibration error", metrics.calibration_error),
            ("Brier", metrics.brier),
        ):
            before, after = measure(truth, scores), measure(truth, found.apply(scores))
            console.print(
                f"{name} on {checked.about['split']}: {before:.4f} before, {after:.4f} after"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(path)
    console.print(f"written to {path}, fitted on {len(fitted)} people of {fitted.about['split']}")
    return 0


def _of(run: Run, columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of those who were judged."""
    if "platt" in run.about.get("calibration", ""):
        raise ValueError(
            "the scores of this run are calibrated already: evaluate again with "
            "`-p calibration:=none`"
        )
    if run.about.get("writes"):
        raise ValueError("this run has hard labels only: calibration needs --decoding score")
    return run.truth[run.judged][:, columns], run.scores[run.judged][:, columns]


def _beside(run: Run) -> Path:
    from emotion_perception.recognizers import calibration_file

    changed = {k: v for k, v in run.about.get("settings", {}).items() if k != "remote"}
    path = calibration_file(RecognizerSettings(**{**changed, "calibration": "beside"}))
    if path is None:
        raise ValueError("this system has no folder of a model: say --out FILE")
    return path
