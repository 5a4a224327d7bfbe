"""Estimates as a table for a terminal."""

from __future__ import annotations

import numpy as np
from rich.table import Table
from rich.text import Text

from emotion_perception.core.text import printable
from emotion_perception.core.values import Estimate, PeopleEstimate, SourceStatus, Status

_MAX_CELL = 200
COLUMNS = ("person", "label", "next strongest", "valence", "arousal", "age")


def people_table(title: str, people: PeopleEstimate) -> Table:
    """Return a table with a row for each person, or one row that says that there is no person."""
    heading = Text(printable(f"{title}, by {people.model}"), style="table.title")
    table = Table(*COLUMNS, title=heading, title_justify="left")
    for estimate in people.people:
        table.add_row(*(Text(printable(cell, _MAX_CELL)) for cell in _row(estimate, people)))
    if not people.people:
        live = people.source_status is SourceStatus.LIVE
        seen = "no person" if live else people.source_status.name.lower().replace("_", " ")
        table.add_row(seen, *[""] * (len(COLUMNS) - 1))
    return table


def _row(estimate: Estimate, people: PeopleEstimate) -> list[str]:
    name = estimate.track.person_id
    if estimate.status is Status.ASSESSED:
        label = f"{estimate.label} {estimate.confidence:.2f}"
    else:
        label = " ".join(filter(None, (estimate.status.name, estimate.reason)))
    pending = estimate.status is Status.PENDING
    age = "" if pending else f"{(people.stamp_ns - estimate.assessed_ns) / 1e9:.1f} s"
    vad = estimate.vad
    affect = (f"{vad.valence:+.2f}", f"{vad.arousal:+.2f}") if vad else ("", "")
    return [name, label, _runner_up(estimate, people.labels), *affect, age]


def _runner_up(estimate: Estimate, labels: tuple[str, ...]) -> str:
    if estimate.status is not Status.ASSESSED or estimate.scores is None:
        return ""
    # The second active label in the order of the node, otherwise the label with the next score.
    rest = [i for i in np.argsort(-estimate.scores) if labels[i] != estimate.label]
    if not rest:
        return ""
    second = labels.index(estimate.active[1]) if len(estimate.active) > 1 else int(rest[0])
    return f"{labels[second]} {estimate.scores[second]:.2f}"
