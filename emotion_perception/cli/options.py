"""Options that several commands share: settings, former names, and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from emotion_perception.core import documents

MODEL_OPTIONS = {
    "model": "recognizer.model: a folder or the hub name of a fetched model",
    "text_model": "recognizer.text_model: a text model that reads captions",
    "adapter": "recognizer.adapter: a fine-tuned adapter",
    "captions": "recognizer.captions: a CSV file, for llm",
}
"""Setting of the recognizer to help text."""


def add_model_options(
    parser: argparse.ArgumentParser, names: Sequence[str] = tuple(MODEL_OPTIONS)
) -> None:
    """Add an option such as `--text-model` for each named setting, see `read_model_options`."""
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", help=MODEL_OPTIONS[name])


def read_model_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings in the options of `add_model_options` and `add_parameters`.

    Raises:
        ValueError: A parameter does not have the form NAME:=VALUE.
    """
    options = {name: getattr(arguments, name, None) for name in MODEL_OPTIONS}
    settings = {name: value for name, value in options.items() if value is not None}
    return settings | read_parameters(arguments.parameter)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Add `--json` and `--quiet`, which `output.Output` reads."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="print only the result, warnings and errors: no progress and no remarks",
    )


def add_parameters(
    parser: argparse.ArgumentParser,
    description: str = "another setting of the recognizer, such as `-p device:=cpu`",
) -> None:
    """Add the option `-p NAME:=VALUE`, see `read_parameters`."""
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME:=VALUE",
        help=f"{description}; can be repeated",
    )  # fmt: skip


def read_parameters(parameters: Sequence[str]) -> dict[str, Any]:
    """Parse settings such as `compile:=true`, in the syntax of `ros2 run`.

    Raises:
        ValueError: A parameter does not have the form NAME:=VALUE.
    """
    values: dict[str, Any] = {}
    for parameter in parameters:
        name, separator, value = parameter.partition(":=")
        if not separator:
            raise ValueError(f"cannot read the parameter {parameter!r}: write it as NAME:=VALUE")
        try:
            values[name] = documents.parse_json(value)
        except ValueError:
            values[name] = value
    return values


class _FormerOption(argparse.Action):
    """Refuse an option that was renamed, with the new form."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        parser.error(f"{self.option_strings[0]} has another form now: use {self.metavar}")


def refuse_former_options(
    parser: argparse.ArgumentParser, names: Sequence[str], current: str
) -> None:
    """Refuse former names of an option with an error that names the current form."""
    parser.add_argument(
        *names,
        nargs="?",
        action=_FormerOption,
        metavar=current,
        default=argparse.SUPPRESS,  # the parsers of subcommands may have the option
        help=argparse.SUPPRESS,
    )
