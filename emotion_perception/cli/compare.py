"""Compare evaluations in one table, next to the published values."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_perception.cli.options import add_output_options
from emotion_perception.cli.parser import Parser

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from emotion_perception.evaluation.comparison import Comparison

_WIDE = 110  # columns of a terminal in which values and names fit beside each other


def add_arguments(parser: Parser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a folder that `evaluate` wrote"
    )
    parser.add_argument("--out", type=Path, default=Path("out/compare"), help="folder to write")
    parser.add_argument(
        "--no-published", action="store_true", help="leave out the published values"
    )
    add_output_options(parser)
    parser.add_examples(
        "compare out/evaluate/rand6-test out/evaluate/vlm-ours-test",
        "compare out/evaluate/* --no-published --json",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare the runs and print the table."""
    from emotion_perception.cli.output import Output
    from emotion_perception.evaluation.comparison_files import ComparisonOptions, write_comparison

    options = ComparisonOptions(
        runs=arguments.runs, out=arguments.out, with_published=not arguments.no_published
    )
    output = Output(arguments)
    with output.status("computing metrics"):
        comparison, paths = write_comparison(options)
    for warning in comparison.warnings:
        output.remark(f"Warning: {warning}")

    def show(console: Console) -> None:
        console.print(_table(comparison, console.width))
        for path in paths:
            console.print(f"written to {path}", highlight=False, soft_wrap=True)

    output.result({"rows": _rows(comparison), "files": [str(path) for path in paths]}, show)
    return 0


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the table ready for JSON; values are in %."""
    return [
        {
            "block": row.heading,
            "model": row.model,
            "people": row.people,
            "values": {name: asdict(value) for name, value in row.values.items()},
        }
        for row in comparison.rows
    ]


def _table(comparison: Comparison, width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from emotion_perception.evaluation.comparison import MEASURES

    wide = width >= _WIDE
    title = "in %, value ± sd" if wide else "in %; a wider terminal also shows the ±"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for name in MEASURES.values():
        table.add_column(name.split()[0], justify="right", no_wrap=True)
    block = ""
    for row in comparison.rows:
        if row.block != block:
            block = row.block
            table.add_section()
            table.add_row(Text(row.heading, style="italic"))
        cells = []
        for name in MEASURES:
            text = str(row.values.get(name, ""))
            cell = text if wide else text.partition(" ")[0]
            cells.append(Text(cell, style="bold" if name in row.best else ""))
        table.add_row(row.model, *cells)
    return table
