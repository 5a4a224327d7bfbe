"""Fine-tune an adapter, a head or a network on a data set, resuming an interrupted training."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

from emotion_perception.cli.options import (
    add_model_options,
    add_output_options,
    add_parameters,
    read_model_options,
)
from emotion_perception.cli.parser import Parser
from emotion_perception.training.recipe import (
    OPTIONS,
    PAPER_SOURCES,
    PRESETS,
    Recipe,
    trainable_systems,
)


def add_arguments(parser: Parser) -> None:
    """Add the options of the command; those of the recipe come from its definition."""
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--system", required=True, choices=trainable_systems(), help="system to train"
    )
    add_model_options(parser, ("model", "text_model", "captions"))
    add_parameters(parser)
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="",
        help="a recipe of the paper; other options override it",
    )
    recipe = parser.add_argument_group("recipe")
    for name, option in OPTIONS.items():
        default = str(option.default).lower() if option.type is bool else option.default
        arguments: dict[str, Any] = {"help": f"{option.description}; default: {default}"}
        if option.type is bool:
            arguments["action"] = argparse.BooleanOptionalAction
        elif option.choices:
            arguments |= {"type": option.type, "choices": option.choices}
        else:
            arguments |= {"type": option.type, "metavar": option.type.__name__.upper()}
        recipe.add_argument(f"--{name.replace('_', '-')}", default=None, **arguments)
    add_output_options(parser)
    parser.add_examples(
        "finetune --root EMOTIC --system vlm-ours --model my_vlm --out out/adapter",
        "finetune --root EMOTIC --system emotic-cnn --epochs 15 --out out/cnn",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune with a progress bar, and print how to use the result."""
    from emotion_perception.cli.output import Output
    from emotion_perception.training.finetune import FinetuneOptions, finetune

    recipe = {n: v for n in OPTIONS if (v := getattr(arguments, n)) is not None}
    options = FinetuneOptions(
        system=arguments.system,
        root=arguments.root,
        out=arguments.out,
        recipe=Recipe.from_options(recipe, arguments.preset),
        settings=read_model_options(arguments),
    )
    # torchrun and accelerate number the processes; only the first one prints.
    is_first = os.environ.get("RANK", "0") == "0"
    arguments.quiet |= not is_first
    output = Output(arguments)
    for source in PAPER_SOURCES if arguments.preset else ():
        output.remark(source)
    with output.progress(options.system) as update:

        def progress(done: int, total: int, loss: float) -> None:
            update(done, total, "" if math.isnan(loss) else f"loss {loss:.4f}")

        usage = finetune(options, output.remark, progress)
    if is_first:
        output.result(
            {"folder": str(options.out), "command": usage},
            lambda console: console.print(
                f"written to {options.out}; use it with\n{usage}", soft_wrap=True
            ),
        )
    return 0
