"""Compare the engine with other ways of asking, and measure what surrounds it."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_perception.cli.options import add_parameters, read_parameters
from emotion_perception.cli.parser import Parser

if TYPE_CHECKING:
    from rich.console import Console

PARTS = ("vlm", "frame", "node", "still")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The options of the command."""

    parts: tuple[str, ...]
    shapes: tuple[str, ...]
    model: str | None
    people: tuple[int, ...]
    rounds: int
    threads: int
    device: str
    parameters: dict[str, Any]
    out: Path
    page: Path | None

    def __post_init__(self) -> None:
        """Check the counts."""
        if not self.people or min((*self.people, self.rounds, self.threads)) < 1:
            raise ValueError(
                f"cannot measure {list(self.people)} people in {self.rounds} rounds with "
                f"{self.threads} threads: --people, --rounds and --threads take whole numbers from "
                "1"
            )


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("--only", choices=PARTS, help="measure one part; default: all")
    parser.add_argument(
        "--shape",
        action="append",
        help="architecture with random weights, for example SmolVLM2-500M (default) or Qwen3-VL-2B "
        "(also default on a GPU); can be repeated",
    )
    parser.add_argument("--model", help="a folder or hub name instead of random weights")
    parser.add_argument(
        "--people", type=int, nargs="+", default=[1, 4, 8], help="people per round; default: 1 4 8"
    )
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds; default: 7")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads of the models on a CPU; default: 1, which other work disturbs least",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    add_parameters(parser, "a setting of the recognizer, for example `-p compile:=true`")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results")
    parser.add_argument("--page", type=Path, help="a Markdown page whose tables are updated")
    parser.add_examples("bench --only frame", "bench --only vlm --people 1 4 --threads 2")


def run(arguments: argparse.Namespace) -> int:
    """Measure, and write the results."""
    options = BenchOptions(
        parts=(arguments.only,) if arguments.only else PARTS,
        shapes=tuple(arguments.shape or ()),
        model=arguments.model,
        people=tuple(arguments.people),
        rounds=arguments.rounds,
        threads=arguments.threads,
        device=arguments.device,
        parameters=read_parameters(arguments.parameter),
        out=arguments.out,
        page=arguments.page,
    )
    from emotion_perception.cli.output import plain_console

    console = plain_console()
    _check_outputs(options)
    faults = _vlm(options, console) if "vlm" in options.parts else []
    if "frame" in options.parts:
        _frame(options, console)
    if "node" in options.parts:
        _node(options, console)
    if "still" in options.parts:
        _still(options, console)
    for fault in faults:
        print(
            f"cannot report the share of the limit: {fault}; measure again on a machine that does "
            "nothing else",
            file=sys.stderr,
        )
    return 1 if faults else 0


def _check_outputs(options: BenchOptions) -> None:
    """Check, before anything is measured, that the results can be written.

    Raises:
        ValueError: The page lacks a mark, or ROS is missing.
        OSError: The folder or the page cannot be written.
    """
    from emotion_perception.io import atomic

    atomic.check_writable(options.out / f"{options.parts[0]}.json")
    if "node" in options.parts and not importlib.util.find_spec("rclpy"):
        raise ValueError(
            "cannot measure the node: ROS 2 is not installed or not sourced; add --only vlm or "
            "--only frame"
        )
    if options.page:
        atomic.check_writable(options.page)  # before the import, which takes seconds
        from emotion_perception.benchmarks.report import split_page

        for part in options.parts:
            split_page(options.page, part)


def _vlm(options: BenchOptions, console: Console) -> list[str]:
    """Measure, write the results after each round, and return the faults of the measurement."""
    from emotion_perception.benchmarks import report
    from emotion_perception.benchmarks.measurement import measure_vlm
    from emotion_perception.io import atomic
    from emotion_perception.io.run_folder import to_json

    path = atomic.make_folder(options.out) / "vlm.json"
    with console.status("") as status:
        for results in measure_vlm(
            options.shapes,
            options.model,
            options.people,
            options.rounds,
            options.device,
            options.parameters,
            status.update,
            options.threads,
        ):
            atomic.write_files({path: to_json(results)})
    for name, model in results["models"].items():
        console.print(report.vlm_table(name, model))
    _write(options, "vlm", results, report.vlm_markdown(results), console)
    return [
        f"{name}, {fault}" for name, model in results["models"].items() for fault in model["faults"]
    ]


def _frame(options: BenchOptions, console: Console) -> None:
    from emotion_perception.benchmarks import report
    from emotion_perception.benchmarks.measurement import measure_frame

    with console.status("images without models"):
        results = measure_frame(options.rounds)
    console.print(report.frame_table(results))
    _write(options, "frame", results, report.frame_markdown(results), console)


def _node(options: BenchOptions, console: Console) -> None:
    from emotion_perception.benchmarks import report
    from emotion_perception.ros.load_measurement import measure

    with console.status("a node with images at 30 Hz"):
        results = {"machine": report.machine("cpu"), "cases": measure()}
    console.print(report.node_table(results))
    _write(options, "node", results, report.node_markdown(results), console)


def _still(options: BenchOptions, console: Console) -> None:
    from emotion_perception.benchmarks import report
    from emotion_perception.benchmarks.still import measure

    with console.status("") as status:
        results = measure(status.update)
    console.print(report.still_table(results))
    _write(options, "still", results, report.still_markdown(results), console)


def _write(
    options: BenchOptions, part: str, results: dict[str, Any], text: str, console: Console
) -> None:
    from emotion_perception.benchmarks.report import update_page
    from emotion_perception.io import atomic
    from emotion_perception.io.run_folder import to_json

    path = atomic.make_folder(options.out) / f"{part}.json"
    atomic.write_files({path: to_json(results)})
    console.print(f"written to {path}")
    if options.page:
        update_page(options.page, part, text)
        console.print(f"and to {options.page}")
