"""Fit what a model's scores mean on a run over validation data, and keep it beside the model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from emotion_perception.cli.options import plain_console
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import RecognizerSettings, current_names
from emotion_perception.evaluation import calibration_fit, metrics
from emotion_perception.evaluation.ablations import FULL_INPUT
from emotion_perception.evaluation.run import Run
from emotion_perception.io import atomic
from emotion_perception.recognizers import calibrated
from emotion_perception.recognizers.registry import calibration_file


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
    labels = _labels(fitted)
    columns = [EMOTIC_LABELS.index(label) for label in labels]
    truth, scores = _of(fitted, columns)
    found = calibration_fit.fit(
        truth,
        scores,
        labels,
        system=fitted.manifest["recognizer"],
        prompting=current_names(fitted.manifest.get("asked", {})),
        data=fitted.manifest["data"],
        beta=arguments.beta,
    )
    path = arguments.out or _beside(fitted)
    if path.is_dir():
        path = path / calibrated.FILE_NAME
    console = plain_console()
    split = fitted.manifest["split"]
    measured = {f"{split}, which it was fitted on": (truth, scores)}
    if arguments.check:
        checked = Run.read(arguments.check)
        for name in ("recognizer", "asked"):
            now, then = (run.manifest.get(name) for run in (checked, fitted))
            if now != then:
                raise ValueError(
                    f"{arguments.check} is a run of another system, or was asked in another way: "
                    f"{name} is {now}, and was {then}"
                )
        if checked.manifest["data"] == fitted.manifest["data"]:
            raise ValueError(f"{arguments.check} is over the same data: check on another split")
        measured[checked.manifest["split"]] = _of(checked, columns)
    for where, (truth, scores) in measured.items():
        for name, measure in (
            ("calibration error", metrics.calibration_error),
            ("Brier", metrics.brier_score),
        ):
            before, after = measure(truth, scores), measure(truth, found.apply(scores))
            console.print(f"{name} on {where}: {before:.4f} before, {after:.4f} after")
    if split == "test":
        console.print("it is fitted on test: nothing that is measured on test is fair with it")
    atomic.make_folder(path.parent)
    found.write(path)
    console.print(f"written to {path}, fitted on {len(fitted)} people of {split}")
    return 0


def _labels(run: Run) -> list[str]:
    """Those that the system knows, in its order."""
    labels: list[str] = run.manifest.get("labels", run.manifest["known"])
    if strange := [label for label in labels if label not in EMOTIC_LABELS]:
        raise ValueError(
            f"cannot calibrate {run.manifest['recognizer']}: this data has no ground truth for its "
            f"labels {', '.join(strange)}"
        )
    return labels


def _of(run: Run, columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of those who were judged."""
    if run.manifest.get("input", FULL_INPUT) != FULL_INPUT:
        raise ValueError(
            f"this run was shown {run.manifest['input']} only: calibrate on one without --input"
        )
    if "platt" in run.manifest.get("calibration", ""):
        raise ValueError(
            "the scores of this run are calibrated already: evaluate again with "
            "`-p calibration:=none`"
        )
    truth, scores = run.truth[run.assessed][:, columns], run.scores[run.assessed][:, columns]
    if np.isin(scores, (0, 1)).all():
        raise ValueError(
            "this run has hard labels only: calibration needs scores, as of --decoding score"
        )
    return truth, scores


def _beside(run: Run) -> Path:
    if "settings" not in run.manifest:
        raise ValueError("this run is somebody's predictions, which have no model: say --out FILE")
    stored = current_names(run.manifest["settings"])
    changed: dict[str, Any] = {k: v for k, v in stored.items() if k != "remote"}
    path = calibration_file(RecognizerSettings(**{**changed, "calibration": "beside"}))
    if path is None:
        raise ValueError("this system has no folder of a model: say --out FILE")
    return path
