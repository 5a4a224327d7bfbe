"""The parser of the command line: own usage, hints at misspelt words, and examples."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

PROGRAM = "emotion-perception"
_EXAMPLES = "examples:\n"


class Parser(argparse.ArgumentParser):
    """A parser of which each command reports its own errors, with a hint at a misspelt word."""

    def __init__(self, **properties: Any) -> None:
        """Create a parser; the properties are those of `argparse.ArgumentParser`."""
        super().__init__(**{"formatter_class": _HelpFormatter, **properties})
        self._words: Sequence[str] = ()

    @property
    def examples(self) -> tuple[str, ...]:
        """The command lines of `add_examples`."""
        lines = (self.epilog or "").removeprefix(_EXAMPLES).splitlines()
        return tuple(line.strip() for line in lines)

    def add_examples(self, *lines: str) -> None:
        """Show command lines at the end of the help; they are written without the program."""
        self.epilog = _EXAMPLES + "\n".join(f"  {PROGRAM} {line}" for line in lines)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the words of this command, and refuse those that it does not know.

        A parser of subcommands calls this, too, so that the subcommand reports its unknown words.
        """
        self._words = sys.argv[1:] if args is None else list(args)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, []

    def error(self, message: str) -> NoReturn:
        """End with the usage of this command, the error, and hints at misspelt options."""
        options = [
            name
            for action in self._actions
            if action.help != argparse.SUPPRESS
            for name in action.option_strings
            if name.startswith("--")
        ]
        for word in self._words:
            name = word.partition("=")[0]
            is_option = len(name) > 2 and name[0] == "-" and not name[1].isdigit()
            if is_option and not any(option.startswith(name) for option in options):
                message += did_you_mean(f"--{name.lstrip('-')}", options)
        super().error(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action,
            f"invalid choice: {value!r}{did_you_mean(str(value), choices)} "
            f"(choose from {', '.join(choices)})",
        )


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return a hint at the word that resembles a misspelt one most; empty if none does."""
    nearest = difflib.get_close_matches(word, list(words), 1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps the lines of examples, and wraps other texts."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(_EXAMPLES):
            return text
        return super()._fill_text(text, width, indent)
