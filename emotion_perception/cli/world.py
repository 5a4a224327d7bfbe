"""The small drawn world: its data, its moving scenes, its small models, what they have learnt."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from emotion_perception import toy_world
from emotion_perception.cli.options import plain_console
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.evaluation import calibration_fit, metrics, runner
from emotion_perception.evaluation.ablations import FULL_INPUT
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run
from emotion_perception.io import atomic

TEST_SEED, UNSEEN_SEED, VAL_SEED, UNSEEN_VAL_SEED = 11, 12, 13, 14
"""Of the worlds that are measured on; training draws others."""
SIZES = ((192, 192), (640, 480), (640, 360), (480, 640))
"""Of the pictures that are measured on, in turn: squares, and what cameras take."""
_FIRST_OF_DATA = 100
LAST_SEED = (toy_world.FIRST_TRAINING_SEED - _FIRST_OF_DATA) // 3 - 1
"""Of `data`, which takes three worlds a seed."""
_BEGIN, _END = "<!-- report -->", "<!-- /report -->"
_NAMES = {
    "scene+person": "scene + person",
    "person": "person only",
    "scene": "scene only",
    "text": "text only",
}
_CEILINGS = {
    "scene+person": "everything",
    "person": "face+posture",
    "scene": "context",
    "text": "nothing",
}
"""What could be known at best from each input."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    data = steps.add_parser("data", help="write pictures and truth in EMOTIC's format")
    data.add_argument("folder", type=Path)
    data.add_argument("--pictures", type=int, nargs=3, default=[2000, 400, 500],
                      metavar=("TRAIN", "VAL", "TEST"))  # fmt: skip
    data.add_argument("--part", choices=toy_world.PARTS, default="seen",
                      help="of the combinations, in the test part; default: seen")  # fmt: skip
    data.add_argument("--train-part", choices=toy_world.PARTS, default="seen",
                      help="the same in the train and val parts; default: seen")  # fmt: skip
    data.add_argument("--seed", type=int, default=0, help=f"0 to {LAST_SEED}; default: 0")
    clip = steps.add_parser("clip", help="a scene that moves, and what is true in it")
    clip.add_argument("file", type=Path, help="a video (.mp4, .avi), or else the folder of a bag; "
                                              "the truth lies beside it as a CSV file")  # fmt: skip
    clip.add_argument("--seed", type=int, default=0)
    clip.add_argument("--seconds", type=float, default=10.0)
    clip.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    train = steps.add_parser("train", help="the vision-language model, from nothing")
    train.add_argument("folder", type=Path)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--looks", type=int, default=1300, help="steps of the vision tower alone")
    train.add_argument("--steps", type=int, default=1900, help="steps of the whole model")
    detector = steps.add_parser("detector", help="the YOLO, from nothing")
    detector.add_argument("file", type=Path)
    detector.add_argument("--seed", type=int, default=2000)
    detector.add_argument("--steps", type=int, default=600)
    report = steps.add_parser("report", help="what each part of the input tells the models")
    report.add_argument("models", type=Path, nargs="+", help="one a seed")
    report.add_argument("--pictures", type=int, default=500)
    report.add_argument("--out", type=Path, default=Path("out/world"))
    report.add_argument("--page", type=Path, help="a Markdown page whose tables are renewed")


def run(arguments: argparse.Namespace) -> int:
    console = plain_console()
    if arguments.step == "data":
        _write_data(arguments)
        console.print(f"written to {arguments.folder}")
    elif arguments.step == "clip":
        pictures = toy_world.draw_clip(
            arguments.seed, arguments.seconds, size=tuple(arguments.size)
        )
        _refuse_what_is_there(arguments.file)
        atomic.make_folder(arguments.file.parent)
        count = toy_world.write_clip(arguments.file, pictures)
        console.print(f"{count} pictures written to {arguments.file}")
    elif arguments.step == "train":
        from emotion_perception.toy_world.training import vlm

        vlm.train(arguments.folder, arguments.seed, arguments.looks, arguments.steps,
                    report=console.print)  # fmt: skip
    elif arguments.step == "detector":
        from emotion_perception.toy_world.training import yolo

        yolo.train_on_world(arguments.file, arguments.seed, arguments.steps, report=console.print)
    else:
        _report(arguments, console)
    return 0


def _refuse_what_is_there(path: Path) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path} is there already: choose another place, or remove it")


def _write_data(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.seed <= LAST_SEED:
        raise ValueError(
            f"--seed {arguments.seed}: choose 0 to {LAST_SEED}, since the small models learnt from "
            "the worlds after those"
        )
    train, val, test = arguments.pictures
    first = 3 * arguments.seed + _FIRST_OF_DATA
    splits = {"train": (first, train), "val": (first + 1, val), "test": (first + 2, test)}
    part = arguments.train_part
    _refuse_what_is_there(arguments.folder)
    atomic.make_folder(arguments.folder)
    toy_world.write_emotic(
        arguments.folder, splits, part={"train": part, "val": part, "test": arguments.part}
    )


def _report(arguments: argparse.Namespace, console: Console) -> None:
    """All inputs of all models on combinations seen in training, and everything on the others."""
    out = atomic.make_folder(arguments.out)
    parts = {
        "seen": (TEST_SEED, "seen", arguments.pictures),
        "unseen": (UNSEEN_SEED, "unseen", arguments.pictures),
        "val": (VAL_SEED, "seen", arguments.pictures),
        "unseen_val": (UNSEEN_VAL_SEED, "unseen", arguments.pictures),
    }
    data = {}
    for name, (seed, part, pictures) in parts.items():
        root = out / "data" / name
        toy_world.write_emotic(root, {"test": (seed, pictures)}, size=SIZES, part=part)
        data[name] = emotic.load(root, "test")
    results: dict[str, Any] = {"models": [str(m) for m in arguments.models], "seeds": []}
    for folder in arguments.models:
        results["seeds"].append(_of_model(folder, _asker(folder, out, console), data))
    untrained = out / "untrained"
    if not (untrained / "config.json").is_file():
        from emotion_perception.toy_world.training.vlm import save_untrained

        save_untrained(untrained, 0)
    ask = _asker(untrained, out, console)
    results["untrained"] = ask("seen", data["seen"], FULL_INPUT).figures["map"]
    results["ceilings"] = _ceilings(arguments.pictures)
    (out / "report.json").write_text(json.dumps(results, indent=2) + "\n")
    text = markdown(results, len(data["seen"].people), len(data["unseen"].people))
    console.print(text)
    console.print(f"written to {out}/report.json")
    if arguments.page:
        head, _, rest = arguments.page.read_text().partition(_BEGIN)
        arguments.page.write_text(f"{head}{_BEGIN}\n{text}\n{_END}{rest.partition(_END)[2]}")


@dataclass(frozen=True, slots=True)
class _Told:
    run: Run
    figures: dict[str, Any]


_Ask = Callable[[str, emotic.EmoticSplit, str], _Told]
"""The name of a part of the data, the part, and the part of the input that is shown."""


def _of_model(folder: Path, ask: _Ask, data: dict[str, emotic.EmoticSplit]) -> dict[str, Any]:
    from emotion_perception.recognizers import calibrated
    from emotion_perception.toy_world.training.vlm import recognizer_settings

    shown = {part: ask("seen", data["seen"], part) for part in _NAMES}
    whole = {name: ask(name, data[name], FULL_INPUT) for name in data if name != "seen"}
    whole["seen"] = shown[FULL_INPUT]
    found: dict[str, Any] = {part: told.figures["map"] for part, told in shown.items()}
    found["unseen"] = whole["unseen"].figures["map"]
    for name, val in (("seen", "val"), ("unseen", "unseen_val")):
        test, fitted_on = whole[name].run, whole[val].run
        fitted = calibration_fit.fit(
            fitted_on.truth,
            fitted_on.scores,
            EMOTIC_LABELS,
            system=fitted_on.manifest["recognizer"],
            prompting=calibrated.prompting_settings(recognizer_settings(folder)),
            data=fitted_on.manifest["data"],
        )
        after = fitted.apply(test.scores)
        chosen = after > fitted.thresholds
        found[f"calibration_{name}"] = {
            "ece": [metrics.calibration_error(test.truth, s) for s in (test.scores, after)],
            "brier": [metrics.brier_score(test.truth, s) for s in (test.scores, after)],
            "f1": [metrics.decision_metrics(test.truth, c).f1 for c in (test.predicted, chosen)],
        }
    return found


def _asker(folder: Path, out: Path, console: Console) -> _Ask:
    """Evaluate one model on a part of the data with a part of the input; goes on after a kill.

    Other weights and other numbers of pictures have folders of their own.
    """
    from emotion_perception.recognizers.registry import make_recognizer
    from emotion_perception.toy_world.training.vlm import recognizer_settings

    settings = recognizer_settings(folder, calibration="none")
    recognizer = make_recognizer(settings)

    def ask(name: str, data: emotic.EmoticSplit, part: str) -> _Told:
        about = {
            "system": "vlm",
            "weights": runner.model_fingerprint(settings),
            "pictures": len(data.images),
        }
        where = out / f"runs_{about['weights']}_{about['pictures']}" / f"{name}-{part}"
        with console.status(f"{folder}: {name}, {part}"):
            run = runner.evaluate_recognizer(data, recognizer, where, about, part)
        figures: dict[str, Any] = json.loads((where / "metrics.json").read_text())
        console.print(f"{folder}, {name}, {part}: mAP {figures['map']['value']:.3f} ({len(run)})")
        return _Told(run, figures)

    return ask


def _ceilings(pictures: int) -> dict[str, float]:
    """The best mAP that could be had by who knows so much, with what training could teach."""
    found = {}
    for part, seed in (("seen", TEST_SEED), ("unseen", UNSEEN_SEED)):
        drawn = toy_world.draw_images(seed, pictures, part, size=SIZES)
        people = [p for picture in drawn for p in picture.people]
        for name, known in _CEILINGS.items():
            scores = toy_world.oracle(people, known, "seen")
            found[f"{part}-{name}"] = metrics.mean_average_precision(
                toy_world.ground_truth(people), scores
            )
    return found


def markdown(results: dict[str, Any], seen: int, unseen: int) -> str:
    """The tables of docs/explanation/toy_world.md."""
    seeds, ceilings = results["seeds"], results["ceilings"]
    heads = [f"seed {n}" for n in range(len(seeds))]
    lines = [
        f"mAP on {seen} people whose combinations of face, posture and place occur in training "
        f"(other pictures), and on {unseen} people whose combinations never do; in brackets the "
        "95 % interval of 1,000 bootstrap rounds.",
        "",
        "| input | " + " | ".join(heads) + " | ceiling |",
        "|---|" + "---|" * (len(heads) + 1),
    ]
    for part, name in _NAMES.items():
        cells = [_cell(seed[part]) for seed in seeds]
        lines.append(f"| {name} | {' | '.join(cells)} | {ceilings[f'seen-{part}']:.3f} |")
    cells = [_cell(seed["unseen"]) for seed in seeds]
    ceiling = ceilings["unseen-scene+person"]
    lines.append(f"| scene + person, unseen combinations | {' | '.join(cells)} | {ceiling:.3f} |")
    lines += [
        "",
        f"Before training (scene + person): {_cell(results['untrained'])}.",
        "",
        "Calibration, fitted on other people of the same part, before and after:",
        "",
        "| | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for part in ("seen", "unseen"):
        for key, name in (
            ("ece", "expected calibration error"),
            ("brier", "Brier score"),
            ("f1", "macro F1 (thresholds 0.5, then fitted)"),
        ):
            pairs = [" → ".join(f"{x:.4f}" for x in s[f"calibration_{part}"][key]) for s in seeds]
            lines.append(f"| {part} combinations: {name} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def _cell(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
