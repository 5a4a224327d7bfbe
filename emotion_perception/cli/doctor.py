"""Check the installation and the models, and print the remedy for what is missing."""

from __future__ import annotations

import argparse

from rich.table import Table
from rich.text import Text

from emotion_perception.cli.options import plain_console
from emotion_perception.core.parameter_file import read_parameter_file
from emotion_perception.core.settings import Settings, parameter_table
from emotion_perception.installation.doctor import examine

_STYLES = {"ok": "green", "optional": "yellow", "missing": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--params-file", help="check for these parameters of the node instead of the defaults"
    )
    parser.add_argument(
        "--node", default="", help="full name of the node in the file, such as /robot1/emotion_node"
    )
    parser.add_argument(
        "--parameters", action="store_true", help="list the parameters of the node as Markdown"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the checks; return 0 if the node would start, otherwise 1."""
    if arguments.parameters:
        print(parameter_table())
        return 0
    values = (
        read_parameter_file(arguments.params_file, arguments.node) if arguments.params_file else {}
    )
    checks = examine(Settings.from_dict(values))
    table = Table(title="emotion_perception doctor", show_lines=False)
    for heading in ("", "check", "result", "remedy"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        state = Text(check.state, style=_STYLES[check.state])
        table.add_row(state, check.name, check.result, check.remedy)
    console = plain_console()
    console.print(table)
    missing = [f"{c.name} ({c.result})" for c in checks if c.state == "missing"]
    if missing:
        console.print(f"The node would not start: {', '.join(missing)}.")
        return 1
    console.print("The node would start with these settings.")
    return 0
