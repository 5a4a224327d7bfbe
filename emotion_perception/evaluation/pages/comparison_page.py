"""The comparison as an HTML page: tables, and charts as SVG."""

from __future__ import annotations

from collections.abc import Mapping

from emotion_perception.evaluation.comparison import MEASURES, Comparison, Metrics
from emotion_perception.evaluation.pages import templating
from emotion_perception.evaluation.pages.comparison_charts import (
    PlottedRun,
    small_charts,
    wide_charts,
)
from emotion_perception.evaluation.run import Run


def render(
    comparison: Comparison, runs: Mapping[str, Run], metrics_by_run: Mapping[str, Metrics]
) -> str:
    """Return the page of a comparison of runs by name; it refers to no other file."""
    plotted = [
        PlottedRun.create(number, name, run, metrics_by_run[name])
        for number, (name, run) in enumerate(runs.items())
    ]
    return templating.render(
        "comparison.html",
        comparison=comparison,
        descriptions=[list(d.values()) for d in comparison.descriptions],
        measures=MEASURES,
        plotted=plotted,
        groups={key: _group_rows(plotted, key) for key in ("by_height", "by_people")},
        charts={"small": list(small_charts(plotted)), "wide": list(wide_charts(plotted))},
    )


def _group_rows(plotted: list[PlottedRun], key: str) -> dict[str, list[Mapping[str, object]]]:
    """Return group to its metrics in each run; {} for a run without the group."""
    names = dict.fromkeys(group["group"] for run in plotted for group in run.metrics[key])
    by_run = [{group["group"]: group for group in run.metrics[key]} for run in plotted]
    return {name: [groups.get(name, {}) for groups in by_run] for name in names}
