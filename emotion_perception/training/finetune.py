"""Fine-tune a system of the comparison table on a data set.

options ──> system_settings ──> loop.train ──> RUN/adapter or RUN/model
    └─────> emotic.load ──────────┘
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emotion_perception.core.recognizer_settings import RecognizerSettings, recognizer_settings
from emotion_perception.core.schema import Value
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.evaluation.system_run import system_settings
from emotion_perception.evaluation.systems import SYSTEMS
from emotion_perception.io import run_folder
from emotion_perception.training.manifest import MANIFEST
from emotion_perception.training.recipe import Recipe

Progress = Callable[[int, int, float], None]
"""Receives the steps done, the number of steps, and the latest loss (NaN before the first step)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneOptions:
    """The options of `emotion-perception finetune`."""

    system: str
    """A name in `recipe.trainable_systems`."""
    root: Path
    """The folder of the data set."""
    out: Path
    """The run folder."""
    recipe: Recipe
    settings: Mapping[str, Value] = field(default_factory=dict)
    """Settings of the recognizer that override those of the system."""


def finetune(
    options: FinetuneOptions,
    report: Callable[[str], None] = print,
    progress: Progress = lambda done, total, loss: None,
) -> str:
    """Fine-tune a system, or resume; return the command that evaluates the result.

    People and images that are left out are reported, and images that train and val share.

    Raises:
        ModelError: The model is missing or unfit.
        ValueError: An option is not allowed, the run folder holds another run, or the loss is not
            finite.
        OSError: A file cannot be read or written.
    """
    # torchrun and accelerate number the processes; the first one writes.
    is_first = os.environ.get("RANK", "0") == "0"
    with run_folder.hold(options.out, MANIFEST) if is_first else nullcontext():
        return _finetune(options, report, progress)


def _finetune(options: FinetuneOptions, report: Callable[[str], None], progress: Progress) -> str:
    recipe = options.recipe
    # Without a model, the network starts from random weights.
    defaults: dict[str, Value] = {"model": ""} if options.system == "emotic-cnn" else {}
    settings = system_settings(
        options.system, defaults | dict(options.settings), recipe.objective == "answer"
    )
    data = emotic.load(options.root, recipe.split)
    val_data = None
    if recipe.val_split != "none":
        val_data = emotic.load(options.root, recipe.val_split)
    for split in filter(None, (data, val_data)):
        for reason, people in split.dropped.items():
            report(f"{people} people of the {split.split} split are left out: {reason}")
        if split.missing:
            report(f"{len(split.missing)} images of the {split.split} split do not exist")
    data = emotic.training_images(options.root, data, recipe.keep_shared, report)
    from emotion_perception.training.loop import train

    trained = train(settings, recipe, data, val_data, options.out, progress, report)
    return evaluation_command(options.system, options.root, trained)


def evaluation_command(system: str, root: Path, settings: RecognizerSettings) -> str:
    """Return the command that evaluates a system with these settings on the test split."""
    defaults = {**asdict(recognizer_settings(settings.name)), **SYSTEMS[system].settings}
    words = ["emotion-perception", "evaluate", "system", system, "--root", str(root)]
    for name, value in asdict(settings).items():
        if name in SYSTEMS[system].needs:
            words += [f"--{name.replace('_', '-')}", str(value)]
        elif name != "name" and value != defaults[name]:
            words += ["-p", f"{name}:={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)
