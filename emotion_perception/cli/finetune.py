"""Train an adapter or a head on a data set; the same command goes on with what was interrupted."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from emotion_perception.cli.options import plain_console, read_model_options
from emotion_perception.core.recognizer_settings import RecognizerSettings
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.system_run import system_settings
from emotion_perception.training.recipe import OPTIONS, PRESETS, Recipe

SYSTEMS = (
    *("vlm", "vlm*", "vlm-ours", "llm", "narracap", "caption"),
    *("emotic-cnn", "two-stream", "single-stream"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--root", type=Path, required=True, help="the folder of the data set")
    parser.add_argument("--system", required=True, choices=SYSTEMS)
    parser.add_argument("--model", help="recognizer.model; emotic-cnn: none begins at random")
    parser.add_argument("--text-model", help="recognizer.text_model")
    parser.add_argument("--captions", help="recognizer.captions, for llm")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="any other setting of the recognizer, as in `-p device:=cpu`",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the training")
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="", help="the paper's recipe; options on top"
    )
    recipe = parser.add_argument_group("recipe")
    for name, option in OPTIONS.items():
        shown = str(option.default).lower() if option.type is bool else option.default
        how: dict[str, Any] = {"help": f"{option.description}; default: {shown}", "default": None}
        if option.type is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how |= {"type": option.type, "choices": option.choices or None}
            how |= {} if option.choices else {"metavar": option.type.__name__.upper()}
        recipe.add_argument(f"--{name.replace('_', '-')}", **how)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    given = {n: v for n in OPTIONS if (v := getattr(arguments, n)) is not None}
    recipe = Recipe.from_options(given, arguments.preset)
    settings = settings_of(arguments, recipe)
    data = emotic.load(arguments.root, recipe.split)
    held = None
    if recipe.val_split != "none":
        held = emotic.load(arguments.root, recipe.val_split)
    # Of several processes, which torchrun and accelerate number, the first one speaks.
    console = plain_console()
    console.quiet = os.environ.get("RANK", "0") != "0"
    for part in filter(None, (data, held)):
        for reason, people in part.dropped.items():
            console.print(f"{people} people of {part.split} are left out: {reason}")
        if part.missing:
            console.print(f"{len(part.missing)} pictures of {part.split} are not there")
    from emotion_perception.training.loop import train

    columns = (
        *(TextColumn(arguments.system), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[loss]}"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(arguments.system, total=None, loss="")

        def progress(done: int, total: int, loss: float) -> None:
            shown = "" if math.isnan(loss) else f"loss {loss:.4f}"
            bar.update(task, completed=done, total=total, loss=shown)

        usage = train(settings, recipe, data, held, arguments.out, progress, console.print)
    console.print(f"written to {arguments.out}; use it with")
    console.print(usage, soft_wrap=True)
    return 0


def settings_of(arguments: argparse.Namespace, recipe: Recipe) -> RecognizerSettings:
    """Return the settings of the system, in training as in use.

    Raises:
        ValueError: An option is not allowed, or the system needs one that is missing.
    """
    random_weights = {"model": ""} if arguments.system == "emotic-cnn" else {}
    settings = random_weights | read_model_options(arguments)
    return system_settings(arguments.system, settings, generate=recipe.objective == "answer")
