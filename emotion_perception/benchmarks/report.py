"""The results of the benchmarks as JSON, as tables in the terminal and as a Markdown page."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from emotion_perception.benchmarks.routes import COMPETITORS, ROUTES, Timing, VlmBenchmark
from emotion_perception.core import documents
from emotion_perception.io import atomic
from emotion_perception.perception.devices import processor_name

HEADINGS = [
    "people", "route", "ms", "quartiles", "CPU s", "times packed", "quartiles", "in CPU s",
    "tokens", "tera operations", "peak MB", "timed, the rest multiplied",
]  # fmt: skip
_NODE = [
    "models",
    "transport",
    "people",
    "looked at",
    "CPU [% of one core]",
    "p50 [ms]",
    "p95 [ms]",
]
_STILL = [
    "clips",
    "`refresh_still` [s]",
    "questions",
    "in still stretches",
    "expired",
    "changes answered",
    "reaction, mean [s]",
    "longest [s]",
    "largest delay [s]",
]
_ROOFLINE = [
    "vision_parameters", "language_parameters", "patches", "tokens", "cached_tokens",
    "attended_pairs", "tera_operations", "matrix_tera_operations_per_second", "limit_milliseconds",
    "share_of_limit", "share_of_data_sheet",
]  # fmt: skip


def vlm_results(
    benchmark: VlmBenchmark, timings: dict[int, dict[str, Timing]], dtype: str
) -> dict[str, Any]:
    """Summarise the timings of one model, ready for JSON.

    Args:
        benchmark: counts the operations of a round.
        timings: number of people to route to `Timing`, as `VlmBenchmark.run` yields them.
        dtype: the setting of the recognizer.

    Returns:
        The figures. `faults` names what the machine was too busy to measure: a share of the
        device's limit above 1 is impossible, so it is left out.
    """
    packed = {n: routes["packed"].median for n, routes in timings.items()}
    max_people = max(packed)
    comparable = 1 in packed and max_people > 1
    share = (packed[max_people] - packed[1]) / (max_people - 1) / packed[1] if comparable else None
    results: dict[str, Any] = {
        "dtype": dtype,
        "rounds": len(timings[max_people]["packed"].seconds),
        "speedup_vs_strongest": {},
        "strongest": {},
        "speedup_vs_prefix_cache": {},
        "speedup_vs_decision": {},
        "further_person_share": None if share is None else round(share, 3),
        "people": {},
        "faults": [],
    }
    for n, routes in timings.items():
        rows = {
            route: _route_results(benchmark, timing, routes[benchmark.reference(route)])
            for route, timing in routes.items()
        }
        times = {route: rows[route]["times_packed"] for route in rows}
        strongest = min((r for r in COMPETITORS if r in times), key=lambda route: times[route])
        results["strongest"][str(n)] = strongest
        results["speedup_vs_strongest"][str(n)] = times[strongest]
        results["speedup_vs_prefix_cache"][str(n)] = times["prefix"]
        results["speedup_vs_decision"][str(n)] = times["decision"]
        rate = statistics.median(routes["packed"].rates)
        work = routes["packed"].work
        assert work is not None  # set in each round
        roofline = benchmark.roofline(work, rate).to_json(packed[n])
        roofline["rates"] = routes["packed"].rates
        if roofline["share_of_limit"] > 1:
            results["faults"].append(
                f"{n} people: a packed pass took {1 / roofline['share_of_limit']:.2f} of the time "
                "that the measured rate of matrix products allows"
            )
            roofline["share_of_limit"] = None
        rows["packed"]["roofline"] = roofline
        results["people"][str(n)] = {**rows, "paged_tokens": benchmark.paged_tokens(n)}
    return results


def _route_results(benchmark: VlmBenchmark, timing: Timing, packed: Timing) -> dict[str, Any]:
    """Return the figures of a route beside those of the packed pass on images of its size."""
    ratios = [a / b for a, b in zip(timing.seconds, packed.seconds, strict=True)]
    cpu_ratios = [a / b for a, b in zip(timing.cpu_seconds, packed.cpu_seconds, strict=True)]
    work = timing.work
    return {
        "milliseconds": round(timing.median * 1e3, 2),
        "milliseconds_quartiles": [round(x * 1e3, 2) for x in _quartiles(timing.seconds)],
        "cpu_seconds": round(statistics.median(timing.cpu_seconds), 3),
        "times_packed": round(statistics.median(ratios), 2),
        "times_packed_quartiles": [round(x, 2) for x in _quartiles(ratios)],
        "times_packed_cpu": round(statistics.median(cpu_ratios), 2),
        "tokens": work and work.tokens,
        "tera_operations": work and round(benchmark.roofline(work, 1.0).operations / 1e12, 3),
        "peak_megabytes": round(timing.peak_bytes / 1e6),
        "sampled": timing.sampled,
    }


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile; of one value the value itself."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def machine(device: str) -> dict[str, Any]:
    """Describe the machine of a measurement: date, device, threads and versions."""
    import torch

    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    return f"{processor_name()}, {os.cpu_count()} cores"


def vlm_table(name: str, results: dict[str, Any]) -> Table:
    """Return the routes of one model as a table for the terminal."""
    table = Table(*HEADINGS, title=name, title_justify="left")
    for row in _rows(results):
        table.add_row(*row)
    return table


def vlm_markdown(results: dict[str, Any]) -> str:
    """Return the results of all models as Markdown."""
    lines = [_measured_on(results), ""]
    for name, model in results["models"].items():
        lines += [f"### {name}", "", *_markdown_table(HEADINGS, _rows(model))]
        lines += ["", f"Medians of {model['rounds']} interleaved rounds, {model['dtype']}."]
        share = model["further_person_share"]
        if share is not None:
            lines += [f"A further person costs {share:.2f} of the first."]
        paged = ", ".join(
            f"{routes['paged_tokens']:,} for {n}" for n, routes in model["people"].items()
        )
        lines += [f"An ideal paged server would compute {paged} people: tokens, counted."]
        lines += ["", "Share of the device's limit, packed:", ""]
        rows = [
            [n, *(_cell(routes["packed"]["roofline"][key]) for key in _ROOFLINE)]
            for n, routes in model["people"].items()
        ]
        lines += [*_markdown_table(["people", *_ROOFLINE], rows), ""]
    return "\n".join(lines)


def frame_table(results: dict[str, Any]) -> Table:
    """Return the cost of a frame, part by part, as a table for the terminal."""
    kinds = results["milliseconds"]
    table = Table("milliseconds per frame", *kinds, title="1280 x 720, three people, one core")
    for part in next(iter(kinds.values())):
        table.add_row(part, *(f"{times[part]:.2f}" for times in kinds.values()))
    for part, milliseconds in results["watchdog"].items():
        table.add_row(f"watchdog, {part}", *[f"{milliseconds:.4f}"] * len(kinds))
    return table


def frame_markdown(results: dict[str, Any]) -> str:
    """Return the cost of a frame, part by part, as Markdown."""
    kinds = results["milliseconds"]
    rows = [
        [part] + [f"{t[part]:.2f} ({100 * t[part] / t['all']:.0f} %)" for t in kinds.values()]
        for part in next(iter(kinds.values()))
    ]
    rows += [
        [f"watchdog, {part}", *[f"{ms:.4f}"] * len(kinds)]
        for part, ms in results["watchdog"].items()
    ]
    table = _markdown_table(["milliseconds per frame", *kinds], rows)
    return "\n".join([_measured_on(results), "", *table]) + "\n"


def node_table(results: dict[str, Any]) -> Table:
    """Return the figures of the node under load as a table for the terminal."""
    title = "1280 x 720 at 30 Hz into a node"
    table = Table(*_NODE, title=title, title_justify="left")
    for row in _node_rows(results):
        table.add_row(*row)
    return table


def node_markdown(results: dict[str, Any]) -> str:
    """Return the figures of the node under load as Markdown."""
    table = _markdown_table(_NODE, _node_rows(results))
    return "\n".join([_measured_on(results), "", *table]) + "\n"


def _node_rows(results: dict[str, Any]) -> list[list[str]]:
    return [
        [
            case["models"],
            case["transport"],
            str(case["people"]),
            f"{case['looked at']} of {case['images']}",
            *(f"{case[name]:.1f}" for name in _NODE[4:]),
        ]
        for case in results["cases"]
    ]


def still_table(results: dict[str, Any]) -> Table:
    """Return the figures of `scheduler.refresh_still` as a table for the terminal."""
    table = Table(*_STILL, title="scheduler.refresh_still")
    for row in _still_rows(results):
        table.add_row(*row)
    return table


def still_markdown(results: dict[str, Any]) -> str:
    """Return the figures of `scheduler.refresh_still` as Markdown."""
    table = _markdown_table(_STILL, _still_rows(results))
    return "\n".join([_measured_on(results), "", *table]) + "\n"


def _still_rows(results: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"{case['clips']}, {case['number']} clips",
            f"{row['refresh_still']:g}",
            *(f"{row[name]:,}" for name in ("questions", "still_questions", "expired")),
            str(row["reactions"]),
            f"{row['mean_reaction_seconds']:.2f}",
            f"{row['max_reaction_seconds']:.2f}",
            f"{case['largest_delay_seconds']:.2f}" if row["refresh_still"] else "",
        ]
        for case in results["cases"]
        for row in case["rows"]
    ]


def update_page(page: Path, part: str, text: str) -> None:
    """Replace the text between the two marks of a part in a Markdown page.

    Raises:
        ValueError: the page does not have each mark exactly once.
    """
    before, after = split_page(page, part)
    atomic.write_files({page: f"{before}\n{text}\n{after}".encode()})


def split_page(page: Path, part: str) -> tuple[str, str]:
    """Return a Markdown page up to the first mark of a part, and from the second mark on.

    Raises:
        ValueError: the page does not have each mark exactly once.
        OSError: the page cannot be read.
    """
    text, begin, end = documents.read_text(page), f"<!-- {part} -->", f"<!-- /{part} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"cannot update {page}: it needs the marks {begin} and {end}, once each")
    head, _, rest = text.partition(begin)
    return head + begin, end + rest.partition(end)[2]


def _rows(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for n, routes in results["people"].items():
        for route, meaning in ROUTES.items():
            if route not in routes:
                continue
            row = routes[route]
            counted = row["tokens"] is not None
            rows.append(
                [
                    n,
                    f"{route}: {meaning}",
                    f"{row['milliseconds']:,.0f}",
                    _span(row["milliseconds_quartiles"], ",.0f"),
                    f"{row['cpu_seconds']:,.1f}",
                    f"{row['times_packed']:.2f}",
                    _span(row["times_packed_quartiles"], ".2f"),
                    f"{row['times_packed_cpu']:.2f}",
                    f"{row['tokens']:,}" if counted else "",
                    f"{row['tera_operations']:.3g}" if counted else "",
                    f"{row['peak_megabytes']:,}",
                    row["sampled"],
                ]
            )
    return rows


def _span(values: Sequence[float], form: str) -> str:
    return " to ".join(format(value, form) for value in values)


def _markdown_table(headings: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in [headings, *rows]]
    return [lines[0], "|" + "---|" * len(headings), *lines[1:]]


def _measured_on(results: dict[str, Any]) -> str:
    return f"Measured on: {', '.join(f'{k} {v}' for k, v in results['machine'].items())}."


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
