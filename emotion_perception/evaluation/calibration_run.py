"""Calibrate a system on a run over validation data, and check the calibration on another run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.core.settings import current_names
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import calibration_fit, metrics
from emotion_perception.evaluation.run import Run
from emotion_perception.evaluation.systems import FULL_INPUT
from emotion_perception.io import atomic
from emotion_perception.recognizers import calibrated
from emotion_perception.recognizers.registry import calibration_file

_MEASURES = {
    "calibration error": metrics.calibration_error,
    "calibration error pooled over labels": metrics.pooled_calibration_error,
    "Brier score": metrics.brier_score,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """The options of `emotion-perception calibrate`."""

    run: Path
    """The run folder to fit on."""
    check: Path | None = None
    """Another run of the same system, to measure the calibration on."""
    beta: float | None = None
    """Choose thresholds for the best F-beta; default: precision equals recall."""
    out: Path | None = None
    """The file to write, or its folder; default: beside the adapter or model."""


Effects = dict[str, dict[str, tuple[float, float]]]
"""Data and measure to its value before and after the calibration."""


def calibrate(
    options: CalibrationOptions, log: Callable[[str], None] = print
) -> tuple[Path, Effects]:
    """Fit a calibration and write it; return the path of the file and the effects.

    Raises:
        ValueError: A run cannot be used for calibration, or there is no place to write to.
        OSError: The file cannot be written.
    """
    run = Run.read(options.run)
    path = options.out or _default_path(run)
    if path.is_dir():
        path = path / calibrated.FILE_NAME
    atomic.check_writable(path)
    labels = _labels(run)
    truth, scores = _assessed_people(run, labels)
    for shared in run.manifest.get("shared_images", ()):
        log(
            f"{shared}: the scores of a model trained on both do not show how it does on new images"
        )
    calibration = calibration_fit.fit(
        truth,
        scores,
        labels,
        system=run.manifest["recognizer"],
        prompting=current_names(run.manifest.get("asked", {})),
        data=run.manifest["data"],
        beta=options.beta,
    )
    split = run.manifest["split"]
    samples = {f"{split}, the data of the fit": (truth, scores)}
    if options.check:
        checked = _read_check(options.check, run)
        samples[checked.manifest["split"]] = _assessed_people(checked, labels)
        if shared := _images(run) & _images(checked):
            log(f"{len(shared)} images of {options.check} are also in {options.run}")
    effects: Effects = {
        name: {
            measure: (compute(truth, scores), compute(truth, calibration.apply(scores)))
            for measure, compute in _MEASURES.items()
        }
        for name, (truth, scores) in samples.items()
    }
    if split == "test":
        log("the calibration is fitted on test: do not report metrics on test with it")
    atomic.make_folder(path.parent)
    calibration.write(path)
    log(f"fitted on {len(run)} people of {split}")
    return path, effects


def _read_check(folder: Path, fitted: Run) -> Run:
    """Read the run to check on: the same system and prompts, on other data."""
    run = Run.read(folder)
    for name in ("recognizer", "asked"):
        value, expected = (r.manifest.get(name) for r in (run, fitted))
        if value != expected:
            raise ValueError(
                f"cannot check on {folder}: it is a run of another system or with other prompts "
                f"({name} is {value} instead of {expected})"
            )
    if run.manifest["data"] == fitted.manifest["data"]:
        raise ValueError(f"cannot check on {folder}: it has the same data; use another split")
    return run


def _images(run: Run) -> set[str]:
    """Return the keys of the images, without the numbers of the people."""
    return {key.rpartition("_")[0] for key in run.table["key"]}


def _labels(run: Run) -> list[str]:
    """Return the labels of the recognizer, in its order."""
    labels: list[str] = run.manifest.get("labels", run.manifest["known"])
    if others := [label for label in labels if label not in EMOTIC_LABELS]:
        raise ValueError(
            f"cannot calibrate {run.manifest['recognizer']}: this data has no ground truth for its "
            f"labels {', '.join(others)}"
        )
    return labels


def _assessed_people(run: Run, labels: list[str]) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Return the ground truth and the scores of people with scores, (N, L) each."""
    ablation = run.manifest.get("input", FULL_INPUT)
    if ablation != FULL_INPUT:
        raise ValueError(
            f"cannot calibrate on a run with --input {ablation}: use a run without --input"
        )
    if "platt" in run.manifest.get("calibration", ""):
        raise ValueError(
            "cannot calibrate: the scores of this run are calibrated already; evaluate again with "
            "`-p calibration:=none`"
        )
    columns = [EMOTIC_LABELS.index(label) for label in labels]
    truth, scores = run.truth[run.assessed][:, columns], run.scores[run.assessed][:, columns]
    if np.isin(scores, (0, 1)).all():
        raise ValueError(
            "cannot calibrate: this run has hard labels only; evaluate with --decoding score"
        )
    return truth, scores


def _default_path(run: Run) -> Path:
    if "settings" not in run.manifest:
        raise ValueError("cannot write beside the model: predictions have none; pass --out FILE")
    stored = current_names(run.manifest["settings"])
    settings: dict[str, Any] = {k: v for k, v in stored.items() if k != "remote"}
    path = calibration_file(recognizer_settings(**{**settings, "calibration": "beside"}))
    if path is None:
        raise ValueError(
            "cannot write beside the model: the system has no model folder; pass --out FILE"
        )
    return path
