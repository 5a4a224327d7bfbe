"""What a command prints: its result on the standard output, all else on the error output."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from emotion_perception.core.text import MAX_TEXT, printable


class Output:
    """Prints as the options `--json` and `--quiet` of a command say."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read the options of `options.add_output_options`; a command without them has neither."""
        self._json = getattr(arguments, "json", False)
        self._quiet = getattr(arguments, "quiet", False)
        self._remarks = plain_console(stderr=True)

    def remark(self, line: str) -> None:
        """Print a line for the user without wrapping it; warnings are yellow, and never quiet."""
        is_warning = line.startswith("Warning")
        if is_warning or not self._quiet:
            self._remarks.print(
                line, style="yellow" if is_warning else "", highlight=False, soft_wrap=True
            )

    @contextmanager
    def progress(self, name: str) -> Iterator[Callable[..., None]]:
        """Show a progress bar on a terminal; yield its update: (done, total, text="")."""
        if self._quiet or not self._remarks.is_terminal:
            yield lambda done, total, text="": None
            return
        with progress_bar(self._remarks, name) as update:
            yield update

    def status(self, text: str) -> AbstractContextManager[Any]:
        """Show a text while the work in the block lasts; its `update` replaces the text."""
        return nullcontext(_NoStatus()) if self._quiet else self._remarks.status(text)

    def result(self, values: Mapping[str, Any], show: Callable[[Console], object]) -> None:
        """Print the result: the values with `--json`, otherwise what `show` prints."""
        if self._json:
            print(json.dumps(values, allow_nan=False))
        else:
            show(plain_console())


class _NoStatus:
    def update(self, text: str) -> None:
        """Show nothing."""


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
