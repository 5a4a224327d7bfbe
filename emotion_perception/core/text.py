"""Make text from outside safe to show: on a terminal, in a log, in diagnostics, on a page."""

from __future__ import annotations

import logging

MAX_LINE = 500
"""Characters of a line that is shown, unless its place says otherwise."""

MAX_TEXT = 10_000
"""Characters of a text of several lines, such as a traceback in the log."""


def printable(text: object, limit: int = MAX_LINE, *, lines: bool = False) -> str:
    r"""Return a text as one line of bounded length, without control characters.

    Labels, frame ids, names of files and answers of servers may hold escape sequences that rewrite
    a terminal, marks that reverse the direction of text, and any length. Line breaks become spaces;
    every other character that is not printable is shown as in Python, such as `\x1b`.

    Args:
        text: What to show; `str` is called on it.
        limit: The most characters of the result; a longer text ends in `…`.
        lines: Keep line breaks and tabs.
    """
    whole = str(text)
    if len(whole) <= limit and whole.isprintable():  # almost always
        return whole
    kept = "\n\t" if lines else ""
    shown = "".join(
        c if c.isprintable() or c in kept else " " if c in "\r\n\t" else ascii(c)[1:-1]
        for c in whole[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


class PrintableFormatter(logging.Formatter):
    """Formats records of the log without control characters, and of bounded length."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record, with the lines of its traceback."""
        return printable(super().format(record), MAX_TEXT, lines=True)
