"""What several commands share: printing, estimates as a table, and settings as options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from emotion_perception.core.values import Estimate, PeopleEstimate, Status

COLUMNS = ("person", "label", "next strongest", "valence", "arousal", "age")


def add_parameters(parser: argparse.ArgumentParser, what: str) -> None:
    """The option `-p NAME:=VALUE`, to be read by `read_parameters`."""
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME:=VALUE",
        help=f"{what}; can be repeated",
    )  # fmt: skip


def read_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Settings from options like `compile:=true`, as `ros2 run` takes them.

    Raises:
        ValueError: one is not NAME:=VALUE.
    """
    values: dict[str, Any] = {}
    for parameter in given:
        name, separator, value = parameter.partition(":=")
        if not separator:
            raise ValueError(f"{parameter!r} is not NAME:=VALUE")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def plain_console(stderr: bool = False) -> Console:
    """Names and paths are printed as they are: brackets and colons in them are no markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


def people_table(title: str, people: PeopleEstimate) -> Table:
    """A row for each person, or one that says that nobody is there."""
    table = Table(*COLUMNS, title=f"{title}, by {people.model}", title_justify="left")
    for estimate in people.people:
        table.add_row(*_row(estimate, people))
    if not people.people:
        table.add_row("nobody", *[""] * (len(COLUMNS) - 1))
    return table


def _row(estimate: Estimate, people: PeopleEstimate) -> list[str]:
    name = estimate.track.person_id
    if estimate.status is Status.ASSESSED:
        label = f"{estimate.label} {estimate.confidence:.2f}"
    else:
        label = " ".join(filter(None, (estimate.status.name, estimate.reason)))
    looked = estimate.status is not Status.PENDING
    age = f"{(people.stamp_ns - estimate.assessed_ns) / 1e9:.1f} s" if looked else ""
    vad = estimate.vad
    affect = (f"{vad.valence:+.2f}", f"{vad.arousal:+.2f}") if vad else ("", "")
    return [name, label, _runner_up(estimate, people.labels), *affect, age]


def _runner_up(estimate: Estimate, labels: tuple[str, ...]) -> str:
    if estimate.status is not Status.ASSESSED or estimate.scores is None:
        return ""
    # The next active one as the node ranks them, else the likeliest of the rest.
    rest = [i for i in np.argsort(-estimate.scores) if labels[i] != estimate.label]
    if not rest:
        return ""
    second = labels.index(estimate.active[1]) if len(estimate.active) > 1 else int(rest[0])
    return f"{labels[second]} {estimate.scores[second]:.2f}"
