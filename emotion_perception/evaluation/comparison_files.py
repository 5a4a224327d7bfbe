"""Write a comparison of run folders as Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emotion_perception.evaluation.comparison import (
    MEASURES,
    Comparison,
    compare_runs,
    load_metrics,
)
from emotion_perception.evaluation.pages import comparison_page
from emotion_perception.evaluation.run import Run
from emotion_perception.io import atomic, run_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions:
    """The options of `emotion-perception compare`."""

    runs: Sequence[Path]
    """Run folders."""
    out: Path
    """The folder for the files."""
    with_published: bool = True
    """Add the published rows."""


def write_comparison(options: ComparisonOptions) -> tuple[Comparison, list[Path]]:
    """Compare run folders and write compare.md, compare.csv and compare.html.

    Returns:
        The comparison and the paths of the files.

    Raises:
        ValueError: A folder is not a complete run, or is passed twice.
        OSError: The folder of the results cannot be written.
    """
    folders = name_folders(options.runs)
    with run_folder.hold(options.out, None):
        return _write(folders, options)


def _write(
    folders: Mapping[str, Path], options: ComparisonOptions
) -> tuple[Comparison, list[Path]]:
    runs = {name: Run.read(folder) for name, folder in folders.items()}
    metrics = {name: load_metrics(folders[name], run) for name, run in runs.items()}
    comparison = compare_runs(runs, metrics, options.with_published)
    contents = {
        "compare.md": to_markdown(comparison),
        "compare.csv": to_csv(comparison),
        "compare.html": comparison_page.render(comparison, runs, metrics),
    }
    files = {options.out / name: text.encode() for name, text in contents.items()}
    atomic.write_files(files)
    return comparison, list(files)


def name_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folders by name; equal names are extended by parent folders until they differ.

    Raises:
        ValueError: A folder is passed twice.
    """
    resolved = [folder.resolve() for folder in folders]
    if repeated := [folder for folder, count in Counter(resolved).items() if count > 1]:
        raise ValueError(f"cannot compare {repeated[0]}: it is passed twice; pass each run once")
    names = [folder.name for folder in resolved]
    length = 1
    while len(set(names)) < len(names):
        length += 1
        ambiguous = {name for name, count in Counter(names).items() if count > 1}
        names = [
            "/".join(folder.parts[-length:]) if name in ambiguous else name
            for folder, name in zip(resolved, names, strict=True)
        ]
    return dict(zip(names, folders, strict=True))


def to_markdown(comparison: Comparison) -> str:
    """Return the comparison as a Markdown document."""
    lines = ["# Comparison", ""]
    lines += [f"**Warning: {_escape(warning)}**\n" for warning in comparison.warnings]
    rows = []
    for row in comparison.rows:
        cells = {name: str(value) for name, value in row.values.items()}
        cells |= {name: f"**{cells[name]}**" for name in row.best}
        rows.append([row.block, _escape(row.model), *(cells.get(name, "") for name in MEASURES)])
    lines += _markdown_table(["", "model", *MEASURES.values()], rows, right_from=2)
    lines += ["", *(f"- {_escape(note)}" for note in comparison.notes), "", "## The runs", ""]
    descriptions = [[_escape(text) for text in d.values()] for d in comparison.descriptions]
    lines += _markdown_table(list(comparison.descriptions[0]), descriptions)
    return "\n".join(lines) + "\n"


def _markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], right_from: int | None = None
) -> list[str]:
    """Return the lines of a table whose columns are right-aligned from `right_from` on."""
    left = len(headings) if right_from is None else right_from
    rule = "|" + "---|" * left + "---:|" * (len(headings) - left)
    return [f"| {' | '.join(headings)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _escape(text: str) -> str:
    """Escape Markdown: what comes from a run is plain text."""
    return re.sub(r"([\\`*_\[\]<>|#&$])", r"\\\1", " ".join(text.split()))


def to_csv(comparison: Comparison) -> str:
    """Return one line per row: value, sd, low and high of each metric, and those marked as best."""
    parts = ("value", "sd", "low", "high")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{name}{'' if p == 'value' else f'_{p}'}" for name in MEASURES for p in parts]
    writer.writerow(["block", "model", "data", "people", *columns, "best"])
    for row in comparison.rows:
        numbers = [
            None if (value := row.values.get(name)) is None else getattr(value, part)
            for name in MEASURES
            for part in parts
        ]
        cells = ["" if number is None else round(number, 6) for number in numbers]
        best = " ".join(name for name in MEASURES if name in row.best)
        writer.writerow([row.block, row.model, row.data, row.people, *cells, best])
    return file.getvalue()
