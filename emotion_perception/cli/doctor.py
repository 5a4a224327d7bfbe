"""Check the installation and the models, and print the remedy for what is missing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_perception.cli.options import add_output_options
from emotion_perception.cli.parser import Parser
from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.settings import Settings, parameter_table

if TYPE_CHECKING:
    from rich.console import Console

    from emotion_perception.installation.doctor import Check

_STYLES = {"ok": "green", "optional": "yellow", "missing": "red"}


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--params-file",
        type=Path,
        help="check for these parameters of the node instead of the defaults",
    )
    parser.add_argument(
        "--node", default="", help="full name of the node in the file, such as /robot1/emotion_node"
    )
    parser.add_argument(
        "--parameters", action="store_true", help="list the parameters of the node as Markdown"
    )
    add_output_options(parser)
    parser.add_examples("doctor", "doctor --params-file my_robot.yaml --json")


def run(arguments: argparse.Namespace) -> int:
    """Print the checks; return 0 if the node would start, otherwise 1."""
    if arguments.parameters:
        print(parameter_table())
        return 0
    from emotion_perception.cli.output import Output
    from emotion_perception.installation.doctor import examine

    values = (
        read_parameter_file(arguments.params_file, arguments.node) if arguments.params_file else {}
    )
    checks = examine(Settings.from_dict(values))
    starts = all(check.state != "missing" for check in checks)
    shown = [check for check in checks if check.state == "missing" or not arguments.quiet]
    Output(arguments).result(
        {"starts": starts, "checks": [asdict(check) for check in checks]},
        lambda console: _print_checks(console, shown, starts),
    )
    return 0 if starts else 1


def _print_checks(console: Console, checks: Sequence[Check], starts: bool) -> None:
    """Print a line per check, and below it the lines of its remedy, which a shell accepts."""
    from rich.text import Text

    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        line = Text(f"{check.state:<10}", style=_STYLES[check.state])
        line.append(f"{check.name:<{width}}  {check.result}", style="default")
        console.print(line, soft_wrap=True)
        for remedy in check.remedy:
            console.print(f"{'':<10}{remedy}", highlight=False, soft_wrap=True)
    missing = [f"{c.name} ({c.result})" for c in checks if c.state == "missing"]
    text = "The node would start with these settings."
    if not starts:
        text = f"The node would not start: {', '.join(missing)}."
    console.print(text, highlight=False, soft_wrap=True)
