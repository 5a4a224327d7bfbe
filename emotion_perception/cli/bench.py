"""What a frame costs beside the models; how fast the engine is, beside other ways of asking."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from emotion_perception.cli.options import add_parameters, plain_console, read_parameters
from emotion_perception.core.settings import RecognizerSettings, Settings

ROUTES = {
    "packed": "this package",
    "decision": 'transformers\' `pipeline("decision")`, one question at a time',
    "batched": "one question a row, in batches, person by person",
    "json": "writing a JSON answer of 250 tokens",
}
PARTS = ("vlm", "frame")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=PARTS, help="one of the two parts; default: both")
    parser.add_argument(
        "--shape",
        action="append",
        help="architecture with random weights, e.g. SmolVLM2-500M (default) or Qwen3-VL-2B "
        "(default too, on a GPU); can be repeated",
    )
    parser.add_argument("--model", help="a folder or hub name instead of random weights")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    add_parameters(parser, "a setting of the recognizer, as in `-p compile:=true`")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--page", type=Path, help="a Markdown page whose tables are renewed")


def run(arguments: argparse.Namespace) -> int:
    if min(arguments.people, default=0) < 1 or arguments.rounds < 1:
        raise ValueError("--people and --rounds take whole numbers from 1")
    console = plain_console()
    for part, measure in (("vlm", _vlm), ("frame", _frame)):
        if arguments.only in (None, part):
            measure(arguments, console)
    return 0


def _frame(arguments: argparse.Namespace, console: Console) -> None:
    """Everything around the models, on one core."""
    from emotion_perception.benchmarks.overhead import measure

    found: dict[str, list[dict[str, float]]] = {"raw": [], "JPEG": []}
    with console.status("images without models"):
        for _ in range(arguments.rounds):
            for kind, rounds in found.items():
                with tempfile.TemporaryDirectory() as folder:
                    rounds.append(measure(Path(folder), compressed=kind == "JPEG"))
    parts = {
        kind: {
            part: round(sorted(r[part] for r in rounds)[len(rounds) // 2], 2) for part in rounds[0]
        }
        for kind, rounds in found.items()
    }
    results = {"machine": _machine("cpu"), "milliseconds": parts}
    table = Table("milliseconds a frame", *parts, title="1280 x 720, three people, one core")
    for part in parts["raw"]:
        table.add_row(part, *(f"{times[part]:.2f}" for times in parts.values()))
    console.print(table)
    lines = [_measured_on(results), "", "| milliseconds a frame | " + " | ".join(parts) + " |"]
    lines.append("|---|" + "---|" * len(parts))
    for part in parts["raw"]:
        cells = [
            f"{times[part]:.2f} ({100 * times[part] / times['all']:.0f} %)"
            for times in parts.values()
        ]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    _keep(arguments, "frame", results, "\n".join(lines) + "\n", console)


def _vlm(arguments: argparse.Namespace, console: Console) -> None:
    """The packed pass, beside the ways of asking that others offer."""
    from emotion_perception.perception.devices import pick_device
    from emotion_perception.testing.checkpoints import RECIPES, save_random

    device = pick_device(arguments.device)
    shapes = arguments.shape or ["SmolVLM2-500M", *["Qwen3-VL-2B"][: device == "cuda"]]
    for name in [] if arguments.model else shapes:
        if name not in RECIPES:
            raise ValueError(f"no recipe for {name!r}, only for {', '.join(RECIPES)}")
    _settings("", device, arguments.parameter)  # what is wrong is said before minutes of work
    results: dict[str, Any] = {"machine": _machine(device), "models": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in [arguments.model] if arguments.model else shapes:
            console.print(f"{name}: loading")
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
            model = arguments.model or save_random(name, Path(folder) / name, dtype=dtype)
            settings = _settings(str(model), device, arguments.parameter)
            results["models"][name] = measured = _measure(settings, arguments, console)
            console.print(_table(name, measured))
    first = next(iter(results["models"].values()))
    results["speedup_vs_decision"] = first["speedup_vs_decision"]
    _keep(arguments, "vlm", results, _markdown(results), console)


def _keep(
    arguments: argparse.Namespace, part: str, results: dict[str, Any], text: str, console: Console
) -> None:
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"{part}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written to {path}")
    if arguments.page:
        _renew(arguments.page, part, text)
        console.print(f"and to {arguments.page}")


def _settings(model: str, device: str, parameters: list[str]) -> RecognizerSettings:
    values = {"model": model, "device": device, **read_parameters(parameters)}
    return Settings.from_dict(
        {f"recognizer.{name}": value for name, value in values.items()}
    ).recognizer


def _measure(
    settings: RecognizerSettings, arguments: argparse.Namespace, console: Console
) -> dict[str, Any]:
    from emotion_perception.benchmarks.routes import Benchmark

    benchmark = Benchmark(settings)
    with console.status("warming up") as status:
        timings = benchmark.run(arguments.people, arguments.rounds, status.update)
    roofline = {n: benchmark.roofline(n) for n in arguments.people}
    packed = {n: timings[n]["packed"].median for n in arguments.people}
    speedup = {
        n: _median_ratio(timings[n]["decision"].seconds, timings[n]["packed"].seconds)
        for n in arguments.people
    }
    many = max(packed)
    comparable = 1 in packed and many > 1
    share = (packed[many] - packed[1]) / (many - 1) / packed[1] if comparable else None
    benchmark.recognizer.close()
    return {
        "dtype": settings.dtype,
        "rounds": arguments.rounds,
        "speedup_vs_decision": {str(n): round(x, 2) for n, x in speedup.items()},
        "further_person_share": None if share is None else round(share, 3),
        "people": {
            str(n): {
                route: {
                    "milliseconds": round(timing.median * 1e3, 2),
                    "times_packed": round(
                        _median_ratio(timing.seconds, timings[n]["packed"].seconds), 2
                    ),
                    "peak_megabytes": round(timing.peak_bytes / 1e6),
                    "sampled": timing.sampled,
                }
                for route, timing in timings[n].items()
            }
            | {"roofline": roofline[n].to_json(packed[n])}
            for n in arguments.people
        },
    }


def _median_ratio(slow: list[float], fast: list[float]) -> float:
    """Of the rounds' own ratios: a machine that is slow for a round is slow for both."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    middle = len(ratios) // 2
    return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2


def _machine(device: str) -> dict[str, Any]:
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
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _rows(measured: dict[str, Any]) -> list[list[str]]:
    rows = []
    for n, routes in measured["people"].items():
        for route, meaning in ROUTES.items():
            found = routes[route]
            rows.append(
                [
                    n,
                    f"{route}: {meaning}",
                    f"{found['milliseconds']:,.0f}",
                    f"{found['times_packed']:.1f}",
                    f"{found['peak_megabytes']:,}",
                    found["sampled"],
                ]
            )
    return rows


HEADINGS = ["people", "route", "ms", "times packed", "peak MB", "timed, the rest multiplied"]


def _table(name: str, measured: dict[str, Any]) -> Table:
    table = Table(*HEADINGS, title=name, title_justify="left")
    for row in _rows(measured):
        table.add_row(*row)
    return table


def _measured_on(results: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    return f"Measured on: {machine}."


def _markdown(results: dict[str, Any]) -> str:
    lines = [_measured_on(results), ""]
    for name, measured in results["models"].items():
        lines += [f"### {name}", "", "| " + " | ".join(HEADINGS) + " |"]
        lines.append("|" + "---|" * len(HEADINGS))
        lines += ["| " + " | ".join(row) + " |" for row in _rows(measured)]
        share = measured["further_person_share"]
        if share is not None:
            lines += ["", f"A further person costs {share:.2f} of the first."]
        lines += ["", "Share of the device's limit, packed:", ""]
        lines += ["| people | " + " | ".join(_ROOFLINE) + " |", "|---|" + "---|" * len(_ROOFLINE)]
        for n, routes in measured["people"].items():
            cells = [_cell(routes["roofline"][key]) for key in _ROOFLINE]
            lines.append(f"| {n} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


_ROOFLINE = [
    "vision_parameters", "language_parameters", "patches", "tokens", "attended_pairs",
    "tera_operations", "matrix_tera_operations_per_second", "limit_milliseconds", "share_of_limit",
    "share_of_data_sheet",
]  # fmt: skip


def _cell(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _renew(page: Path, part: str, text: str) -> None:
    """Replace what stands between the page's two marks of a part."""
    old, begin, end = page.read_text(), f"<!-- {part} -->", f"<!-- /{part} -->"
    if old.count(begin) != 1 or old.count(end) != 1:
        raise ValueError(f"{page} needs the marks {begin} and {end}, once each")
    head, _, rest = old.partition(begin)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")
