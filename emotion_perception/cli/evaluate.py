"""Ask one system about everybody of a data set, and measure what it says."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from emotion_perception.cli.options import add_parameters, plain_console, read_parameters
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import RecognizerSettings, Settings
from emotion_perception.evaluation import predictions, runner
from emotion_perception.evaluation.ablations import ABLATIONS, FULL_INPUT
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.run import Run, short_hash
from emotion_perception.evaluation.systems import SYSTEMS
from emotion_perception.recognizers.calibrated import prompting_settings
from emotion_perception.recognizers.registry import make_recognizer

_COUNTS = ("majority", "rand6-weighted")
"""Recognizers that take how often each label occurs."""

_WRITES = ("vlm", "narracap", "caption", "llm", "remote")
"""Recognizers that can write labels down."""

_DESCRIBE = ("narracap", "caption")
"""Recognizers whose words are captions, as `llm` reads them, unless they write labels down."""

_OF_SYSTEMS = (
    "model", "text_model", "adapter", "captions", "decoding", "input", "fit_split", "limit",
    "give_up", "parameter",
)  # fmt: skip
_OF_PREDICTIONS = ("labels", "extraction", "subset")
"""Options that only either kind of run reads."""

_LIBRARIES = ("numpy", "torch", "transformers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = "; ".join(f"{name}: {system.what}" for name, system in SYSTEMS.items())
    parser.add_argument("--system", metavar="NAME", help=names)
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="instead of a system: JSON lines with an image key and text or scores",
    )
    parser.add_argument("--dataset", choices=["emotic"], default="emotic")
    parser.add_argument("--root", type=Path, help="the folder of the data set")
    parser.add_argument("--split", default="test", help="train, val or test (default)")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="with --predictions, instead of a data set: CSV of key and labels",
    )
    parser.add_argument(
        "--extraction",
        choices=["word", "paper"],
        default="word",
        help="with --predictions: how labels are found in texts",
    )
    parser.add_argument(
        "--subset",
        action="store_true",
        help="with --predictions: score those who have a prediction and labels, count the others",
    )
    parser.add_argument("--model", help="recognizer.model: a folder or a fetched hub name")
    parser.add_argument("--text-model", help="recognizer.text_model")
    parser.add_argument("--adapter", help="recognizer.adapter: a fine-tuned one")
    parser.add_argument("--captions", help="recognizer.captions, for llm")
    parser.add_argument(
        "--decoding",
        choices=["score", "generate"],
        default="score",
        help="score every label (default), or let the model write as in the paper",
    )
    parser.add_argument(
        "--input",
        choices=list(ABLATIONS),
        default=FULL_INPUT,
        help="; ".join(f"{name}: {what}" for name, what in ABLATIONS.items()),
    )
    parser.add_argument(
        "--fit-split", default="train", help="where chance systems count the labels; default: train"
    )
    parser.add_argument("--limit", type=int, help="the first so many pictures only")
    parser.add_argument(
        "--give-up",
        action="store_true",
        help="count people of whom the system has no answer as not judged, instead of ending "
        "without figures",
    )
    add_parameters(parser, "any other setting of the recognizer, as in `-p device:=cpu`")
    parser.add_argument("--out", type=Path, help="folder of the run; default: one in out/evaluate")


def run(arguments: argparse.Namespace) -> int:
    console = plain_console(stderr=True)
    if (arguments.system is None) == (arguments.predictions is None):
        raise ValueError("give either --system or --predictions")
    _refuse_unread(arguments)
    if arguments.predictions:
        folder = arguments.out or Path("out/evaluate") / arguments.predictions.stem
        found = _predictions(arguments, console)
        found.write(folder)
    else:
        folder = arguments.out or _folder(arguments)
        try:
            found = _system(arguments, folder, console)
        except runner.IncompleteRunError as error:
            print(f"emotion-perception evaluate: {error}", file=sys.stderr)
            return 1
    _show(found, folder)
    return 0


def _refuse_unread(arguments: argparse.Namespace) -> None:
    """
    Raises:
        ValueError: an option is given that nothing would come of.
    """
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    unread: tuple[str, ...]
    if arguments.system:
        kind, unread = "system", _OF_PREDICTIONS
    elif arguments.labels:
        kind, unread = "predictions and --labels", (*_OF_SYSTEMS, "split")
    else:
        kind, unread = "predictions", _OF_SYSTEMS
    given = [name for name in unread if getattr(arguments, name) != parser.get_default(name)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"nothing comes of {options} with --{kind}: leave it out")


def _predictions(arguments: argparse.Namespace, console: Console) -> Run:
    if (arguments.labels is None) == (arguments.root is None):
        raise ValueError("--predictions needs either --labels FILE or the --root of the data set")
    about: dict[str, Any] = {}
    if arguments.labels:
        truth, data = predictions.read_labels(arguments.labels), None
    else:
        data = emotic.load(arguments.root, arguments.split, require_images=False)
        truth = predictions.truth_of(data)
        about = {"dropped": dict(data.dropped), "missing": 0}
        _tell_numbers(data, console)
    said = predictions.read_predictions(arguments.predictions)
    if arguments.subset:
        everybody = (len(said), len(truth))
        said, truth = predictions.in_both(said, truth)
        without_truth, without_prediction = (count - len(truth) for count in everybody)
        about["predictions_without_truth"] = without_truth
        about["dropped"] = {**about.get("dropped", {}), "no prediction": without_prediction}
        console.print(f"{without_truth} predictions are left out: nobody with labels")
    _tell_dropped(about.get("dropped", {}), console)
    paper = arguments.extraction == "paper"
    found = predictions.score(said, truth, arguments.predictions.stem, paper)
    about["split"] = arguments.labels.name if data is None else data.split
    about["data"] = short_hash(truth) if data is None else data.fingerprint(truth.keys())
    return Run({**found.manifest, **about}, found.table)


def _tell_dropped(dropped: Mapping[str, int], console: Console) -> None:
    for reason, people in dropped.items():
        console.print(f"{people} people are left out: {reason}")


def _tell_numbers(data: emotic.EmoticSplit, console: Console) -> None:
    """Where keys of people come from another file, they may mean others."""
    if data.annotations.suffix == ".csv":
        console.print(
            f"the keys number the people of a picture by the rows of {data.annotations}: the "
            "public conversion lacks some people, so that keys by Annotations.mat may name others"
        )


def _system(arguments: argparse.Namespace, folder: Path, console: Console) -> Run:
    if arguments.system not in SYSTEMS:
        near = difflib.get_close_matches(arguments.system, SYSTEMS, n=1)
        raise ValueError(
            f"there is no system {arguments.system!r}"
            + (f", did you mean {near[0]!r}?" if near else f": choose one of {', '.join(SYSTEMS)}")
        )
    if arguments.root is None:
        raise ValueError("--root is missing: the folder of the data set")
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit {arguments.limit}: choose at least one picture")
    settings = settings_of(arguments)
    data = emotic.load(arguments.root, arguments.split)
    if arguments.limit:
        data = replace(data, images=data.images[: arguments.limit])
    _tell_dropped(data.dropped, console)
    if settings.name == "llm":
        from emotion_perception.recognizers.text.llm import WrittenCaptions

        _tell_numbers(data, console)
        # Whose caption is missing now will not have one at the next start.
        WrittenCaptions(settings).check([person.key for person in data.people])
    if data.missing:
        console.print(
            f"{len(data.missing)} annotated pictures are missing: {data.missing[0]}, ... "
            f"(all of them: {folder / 'missing.txt'})"
        )
    about = {
        "system": arguments.system,
        "settings": _changed(settings),
        "asked": prompting_settings(settings),
        "weights": runner.model_fingerprint(settings),
        "limit": arguments.limit,
        "writes": settings.scoring == "generate",
        "versions": _versions(),
    }
    if settings.name in _COUNTS:
        about["frequencies"] = _frequencies(arguments)
        recognizer = _counted(settings, about["frequencies"]["shares"])
    else:
        recognizer = make_recognizer(settings)
    try:
        with _progress(console, arguments.system) as progress:
            found = runner.evaluate_recognizer(
                data, recognizer, folder, about, arguments.input, progress, arguments.give_up
            )
    finally:
        recognizer.close()
    if settings.name in _DESCRIBE and settings.scoring != "generate":
        found.table.select("key", caption="words").write_csv(folder / "captions.csv")
    if given_up := int(found.table["reason"].str.starts_with(runner.NO_ANSWER).sum()):
        console.print(f"{given_up} people count as not judged, since there was no answer")
    return found


def settings_of(arguments: argparse.Namespace) -> RecognizerSettings:
    """The settings of a row of the table with the options on top.

    Raises:
        ValueError: an option is not allowed, or the row needs one that is not given.
    """
    system = SYSTEMS[arguments.system]
    given = {
        name: getattr(arguments, name)
        for name in ("model", "text_model", "adapter", "captions")
        if getattr(arguments, name) is not None
    }
    parameters = read_parameters(arguments.parameter)
    given |= {name.removeprefix("recognizer."): value for name, value in parameters.items()}
    if missing := [name for name in system.needs if name not in given]:
        option = missing[0].replace("_", "-")
        raise ValueError(f"--system {arguments.system} needs --{option}")
    if arguments.decoding == "generate":
        given["scoring"] = "generate"
    values = {f"recognizer.{name}": value for name, value in {**system.settings, **given}.items()}
    settings = Settings.from_dict(values).recognizer
    if settings.name != system.settings["name"]:
        raise ValueError(f"choose another --system, since {arguments.system} is no {settings.name}")
    if settings.scoring == "generate" and settings.name not in _WRITES:
        raise ValueError(f"--system {arguments.system} writes nothing: leave out --decoding")
    return settings


def _changed(settings: RecognizerSettings) -> dict[str, Any]:
    """What is not at its default."""
    now, default = asdict(settings), asdict(RecognizerSettings())
    return {name: value for name, value in now.items() if value != default[name]}


def _versions() -> dict[str, str]:
    """Of the libraries that are installed: chance needs no models."""
    found = {}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _frequencies(arguments: argparse.Namespace) -> dict[str, Any]:
    """How often each label occurs in the split to count in."""
    shares = emotic.load(arguments.root, arguments.fit_split).truth.mean(axis=0).tolist()
    return {"split": arguments.fit_split, "shares": dict(zip(EMOTIC_LABELS, shares, strict=True))}


def _counted(settings: RecognizerSettings, shares: dict[str, float]) -> Recognizer:
    """A recognizer that takes frequencies, which it reads from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frequencies.json"
        path.write_text(json.dumps(shares))
        return make_recognizer(replace(settings, model=str(path)))


def _folder(arguments: argparse.Namespace) -> Path:
    parts = [arguments.system.replace("*", "-star"), arguments.split]
    if arguments.decoding == "generate":
        parts.append("generate")
    if arguments.input != FULL_INPUT:
        parts.append(arguments.input)
    return Path("out/evaluate") / "-".join(parts)


@contextmanager
def _progress(console: Console, name: str) -> Iterator[runner.Progress]:
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(found: Run, folder: Path) -> None:
    figures = json.loads((folder / "metrics.json").read_text())
    table = Table("measure", "value", "95 % interval", title=str(found.manifest["recognizer"]))
    for name, row in figures["decisions"].items():
        table.add_row(name, f"{row['value']:.2%}", f"{row['low']:.2%} to {row['high']:.2%}")
    if (row := figures["map"]) is not None:
        table.add_row("mAP", f"{row['value']:.2%}", f"{row['low']:.2%} to {row['high']:.2%}")
        table.add_row("calibration error", f"{figures['ece']:.4f}", "")
        table.add_row("Brier", f"{figures['brier']:.4f}", "")
    else:
        table.add_row("mAP", "none", figures["map_reason"].partition(":")[0])
    if figures["vad_error"]:
        table.add_row("VAD error, 1..10", f"{figures['vad_error']['mean']:.3f}", "")
    console = plain_console()
    console.print(table)
    console.print(f"{figures['judged']} of {figures['people']} people were judged")
    console.print(f"written to {folder}")
