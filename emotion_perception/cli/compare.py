"""Several evaluations in one table, with the published ones beside them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emotion_perception.evaluation import comparison
from emotion_perception.evaluation.pages import comparison_page
from emotion_perception.evaluation.run import Run

_WIDE = 110  # columns of a terminal in which figures and names fit beside each other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a folder of `evaluate`")
    parser.add_argument("--out", type=Path, default=Path("out/compare"))
    parser.add_argument("--no-published", action="store_true", help="our runs only")


def run(arguments: argparse.Namespace) -> int:
    folders = named(arguments.runs)
    runs = {name: _read(folder) for name, folder in folders.items()}
    console = Console()
    with console.status("measuring"):
        figures = {name: comparison.load_metrics(folders[name], run) for name, run in runs.items()}
        table = comparison.comparison(runs, figures, with_published=not arguments.no_published)
        written = {
            "compare.md": comparison.markdown(table),
            "compare.csv": comparison.to_csv(table),
            "compare.html": comparison_page.page(table, runs, figures),
        }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (arguments.out / name).write_text(text, encoding="utf-8")
    for warning in table.warnings:
        console.print(Text(f"Warning: {warning}", style="yellow"))
    console.print(_table(table, console.width))
    for name in written:
        console.print(Text(f"written to {arguments.out / name}"))
    return 0


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by their names; by as much of their paths as tells them apart, where they share it.

    Raises:
        ValueError: a folder is there twice.
    """
    resolved = [folder.resolve() for folder in folders]
    if twice := [folder for folder, count in Counter(resolved).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice: give each run once")
    names = [folder.name for folder in resolved]
    length = 1
    while len(set(names)) < len(names):
        length += 1
        again = {name for name, count in Counter(names).items() if count > 1}
        names = [
            "/".join(folder.parts[-length:]) if name in again else name
            for folder, name in zip(resolved, names, strict=True)
        ]
    return dict(zip(names, folders, strict=True))


def _read(folder: Path) -> Run:
    try:
        return Run.read(folder)
    except pl.exceptions.PolarsError as error:
        raise ValueError(
            f"{folder / 'people.parquet'} is damaged ({error}): evaluate again"
        ) from error


def _table(compared: comparison.Comparison, width: int) -> Table:
    wide = width >= _WIDE
    title = "in %, value ± sd" if wide else "in %; a wider terminal shows the ± too"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for name in comparison.MEASURES.values():
        table.add_column(name.split()[0], justify="right", no_wrap=True)
    block = ""
    for row in compared.rows:
        if row.block != block:
            block = row.block
            table.add_section()
            table.add_row(Text(block if row.data else f"published, {block}", style="italic"))
        cells = []
        for name in comparison.MEASURES:
            text = str(row.figures.get(name, ""))
            shown = text if wide else text.partition(" ")[0]
            cells.append(Text(shown, style="bold" if name in row.best else ""))
        table.add_row(Text(row.model), *cells)
    return table
