"""Measure what each part of the input tells the small models, for docs/explanation/toy_world.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emotion_perception.core import documents
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.values import FloatArray
from emotion_perception.evaluation import calibration_fit, metrics, runner
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run
from emotion_perception.evaluation.systems import FULL_INPUT
from emotion_perception.io import atomic, run_folder
from emotion_perception.io.run_folder import to_json
from emotion_perception.toy_world.export import write_emotic
from emotion_perception.toy_world.rules import ground_truth, oracle
from emotion_perception.toy_world.stills import draw_images

SEEDS = {"seen": 11, "unseen": 12, "val": 13, "unseen_val": 14}
"""Data set to the seed of its world. Training draws other worlds."""

PARTS = {"seen": "seen", "unseen": "unseen", "val": "seen", "unseen_val": "unseen"}
"""Data set to the part of the world that it is drawn from."""

SIZES = ((192, 192), (640, 480), (640, 360), (480, 640))
"""Width and height of the images in turn: squares, and common camera formats."""

_INPUT_NAMES = {
    "scene+person": "scene + person",
    "person": "person only",
    "scene": "scene only",
    "text": "text only",
}
_ORACLE_INPUTS = {
    "scene+person": "everything",
    "person": "face+posture",
    "scene": "context",
    "text": "nothing",
}
"""Ablation to what an oracle can know from that input."""

TIE_BREAKS = 20
"""Number of rankings over which a ceiling is averaged."""

_CALIBRATION_NAMES = {
    "ece": "expected calibration error, mean of the labels",
    "ece_pooled": "expected calibration error, pooled over labels",
    "brier": "Brier score",
    "f1": "macro F1 (thresholds 0.5, then fitted)",
}
_CALIBRATION_MEASURES = {
    "ece": metrics.calibration_error,
    "ece_pooled": metrics.pooled_calibration_error,
    "brier": metrics.brier_score,
}

Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What to measure, and where to write it."""

    models: Sequence[Path]
    """Folders of trained models, one per seed."""
    images: int
    """Number of images per data set."""
    out: Path
    """Folder of the data sets, the evaluations and report.json."""
    page: Path | None = None
    """A Markdown page; the text between its report markers is replaced."""


def write_report(options: ReportOptions, log: Log) -> None:
    """Evaluate models on each input, with ceilings and calibration, and write the results.

    All inputs are measured on combinations that occur in training, the full input also on the
    others. An interrupted report resumes: finished evaluations are not repeated.

    Args:
        options: What to measure.
        log: Called with each line for the user.

    Raises:
        ValueError: The number of images is not positive, or a model cannot be evaluated.
        OSError: A file cannot be read or written.
    """
    if options.page:
        atomic.check_writable(options.page)
        documents.read_text(options.page)
    with run_folder.hold(options.out, None) as out:
        _write_report(options, out, log)


def _write_report(options: ReportOptions, out: Path, log: Log) -> None:
    data = {name: draw_data(name, options.images, out) for name in SEEDS}
    results: dict[str, Any] = {"models": [str(model) for model in options.models], "seeds": []}
    for folder in options.models:
        results["seeds"].append(_measure_model(ModelEvaluator(folder, out, log), data))
    untrained = out / "untrained"
    if not (untrained / "config.json").is_file():
        from emotion_perception.toy_world.training.vlm import save_untrained

        save_untrained(untrained, 0)
    evaluator = ModelEvaluator(untrained, out, log)
    results["untrained"] = evaluator.evaluate("seen", data["seen"], FULL_INPUT).metrics["map"]
    results["ceilings"] = ceilings(options.images)
    atomic.write_files({out / "report.json": to_json(results)})
    text = markdown(results, len(data["seen"].people), len(data["unseen"].people))
    log(text)
    log(f"written to {out}/report.json")
    if options.page:
        update_page(options.page, "report", text)


def update_page(page: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of that name in a Markdown page."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, _, rest = documents.read_text(page).partition(begin)
    content = f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    atomic.write_files({page: content.encode()})


def draw_data(name: str, images: int, out: Path) -> emotic.EmoticSplit:
    """Return the data set of that name in `SEEDS`, written below `out`."""
    root = out / "data" / name
    write_emotic(root, {"test": (SEEDS[name], images)}, size=SIZES, part=PARTS[name])
    return emotic.load(root, "test")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation: its scores, and its metrics.json."""

    run: Run
    metrics: dict[str, Any]


class ModelEvaluator:
    """Evaluate one small model on several data sets and inputs.

    Each evaluation has a run folder and resumes. Models with other weights and data sets of another
    length use other run folders.
    """

    def __init__(self, folder: Path, out: Path, log: Log, **changes: str) -> None:
        """Load the model of a folder with changed settings; run folders go below `out`."""
        from emotion_perception.recognizers.registry import make_recognizer
        from emotion_perception.toy_world.training.vlm import recognizer_settings

        self._folder, self._out, self._log = folder, out, log
        self.settings = recognizer_settings(folder, calibration="none", **changes)
        self._changes = changes
        self._recognizer = make_recognizer(self.settings)

    def evaluate(self, name: str, data: emotic.EmoticSplit, ablation: str) -> Evaluation:
        """Evaluate the model on the data set of that name with one of `systems.ABLATIONS`."""
        manifest = {
            "system": "vlm",
            "weights": runner.model_fingerprint(self.settings),
            "pictures": len(data.images),
            **self._changes,
        }
        runs = self._out / f"runs_{manifest['weights']}_{manifest['pictures']}"
        folder = runs / "-".join([name, ablation, *self._changes.values()])
        run = runner.evaluate_recognizer(data, self._recognizer, folder, manifest, ablation)
        stored = documents.read_json_object(folder / "metrics.json")
        mean = stored["map"]["value"]
        self._log(f"{self._folder}, {folder.name}: mAP {mean:.3f} ({len(run)} people)")
        return Evaluation(run, stored)


def _measure_model(
    evaluator: ModelEvaluator, data: dict[str, emotic.EmoticSplit]
) -> dict[str, Any]:
    from emotion_perception.recognizers import calibrated

    by_input = {
        ablation: evaluator.evaluate("seen", data["seen"], ablation) for ablation in _INPUT_NAMES
    }
    by_data = {
        name: evaluator.evaluate(name, data[name], FULL_INPUT) for name in data if name != "seen"
    }
    by_data["seen"] = by_input[FULL_INPUT]
    results: dict[str, Any] = {name: e.metrics["map"] for name, e in by_input.items()}
    results["unseen"] = by_data["unseen"].metrics["map"]
    for name, fit_name in (("seen", "val"), ("unseen", "unseen_val")):
        test, val = by_data[name].run, by_data[fit_name].run
        calibration = calibration_fit.fit(
            val.truth,
            val.scores,
            EMOTIC_LABELS,
            system=val.manifest["recognizer"],
            prompting=calibrated.prompting_settings(evaluator.settings),
            data=val.manifest["data"],
        )
        scores = calibration.apply(test.scores)
        predicted = scores > calibration.thresholds
        results[f"calibration_{name}"] = {
            **{
                key: [measure(test.truth, s) for s in (test.scores, scores)]
                for key, measure in _CALIBRATION_MEASURES.items()
            },
            "f1": [metrics.decision_metrics(test.truth, p).f1 for p in (test.predicted, predicted)],
        }
    return results


def ceilings(images: int) -> dict[str, float]:
    """Return the mAP of an oracle that knows the input exactly and the rules of training.

    Args:
        images: Number of images per part of the world.

    Returns:
        The mean over `TIE_BREAKS` rankings, by "PART-ABLATION". People who look alike to the oracle
        have equal scores, which each ranking orders at random: a model has hardly any equal scores,
        and predicting all of them together would give the oracle a lower mAP than such a model.
    """
    values = {}
    random = np.random.default_rng(0)
    for part in ("seen", "unseen"):
        drawn = draw_images(SEEDS[part], images, part, size=SIZES)
        people = [person for image in drawn for person in image.people]
        for name, known in _ORACLE_INPUTS.items():
            truth, scores = ground_truth(people), oracle(people, known, "seen")
            values[f"{part}-{name}"] = float(
                np.mean(
                    [
                        metrics.mean_average_precision(truth, _ranks(scores, random))
                        for _ in range(TIE_BREAKS)
                    ]
                )
            )
    return values


def _ranks(scores: FloatArray, random: np.random.Generator) -> FloatArray:
    """Return the rank of each score within its column, (N, L), with ties in random order."""
    order = np.lexsort((random.random(scores.shape), scores), axis=0)
    return order.argsort(axis=0).astype(float)


def markdown(results: dict[str, Any], seen: int, unseen: int) -> str:
    """Return the tables of docs/explanation/toy_world.md.

    Args:
        results: The content of report.json.
        seen: Number of people whose combinations occur in training.
        unseen: Number of people whose combinations do not.
    """
    seeds = results["seeds"]
    heads = [f"seed {n}" for n in range(len(seeds))]
    lines = [
        f"mAP on {seen} people whose combinations of face, posture and place occur in training "
        f"(in other images), and on {unseen} people whose combinations do not; in parentheses the "
        "95 % interval of 1,000 bootstrap rounds.",
        "",
        "| input | " + " | ".join(heads) + " | ceiling |",
        "|---|" + "---|" * (len(heads) + 1),
    ]
    rows = [(title, name, f"seen-{name}") for name, title in _INPUT_NAMES.items()]
    rows.append(("scene + person, unseen combinations", "unseen", "unseen-scene+person"))
    for title, key, ceiling in rows:
        cells = [_with_interval(seed[key]) for seed in seeds]
        lines.append(f"| {title} | {' | '.join(cells)} | {results['ceilings'][ceiling]:.3f} |")
    lines += [
        "",
        f"Before training (scene + person): {_with_interval(results['untrained'])}.",
        "",
        "Calibration, fitted on other people of the same part of the world, before and after:",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for part in ("seen", "unseen"):
        for key, title in _CALIBRATION_NAMES.items():
            pairs = [" → ".join(f"{x:.4f}" for x in s[f"calibration_{part}"][key]) for s in seeds]
            lines.append(f"| {part} combinations: {title} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def _with_interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
