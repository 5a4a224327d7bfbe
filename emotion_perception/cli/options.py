"""What several commands share: printing, and settings as options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from emotion_perception.core import documents
from emotion_perception.core.text import MAX_TEXT, printable

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


def plain_console(stderr: bool = False) -> Console:
    """Return a console that prints names and paths unchanged: brackets and colons are no markup."""
    return _PlainConsole(stderr=stderr, markup=False, emoji=False)


class _PlainConsole(Console):
    """Shows names from files, messages and servers without the control characters in them."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text, MAX_TEXT, lines=True), **how)


@contextmanager
def progress_bar(console: Console, name: str) -> Iterator[Callable[..., None]]:
    """Show a progress bar; yield the function that updates it: (done, total, text="")."""
    description = TextColumn("{task.description}", markup=False)
    columns = (description, BarColumn(), MofNCompleteColumn())
    text_column = TextColumn("{task.fields[text]}", markup=False)
    with Progress(*columns, text_column, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(printable(name), total=None, text="")

        def update(done: int, total: int, text: str = "") -> None:
            bar.update(task, completed=done, total=total, text=printable(text))

        yield update
