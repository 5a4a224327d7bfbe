"""Show the messages of a running node as tables or as JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys

from emotion_perception.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("--topic", help="topic to read; default: /emotion_node/emotions")
    parser.add_argument("--json", action="store_true", help="print one JSON object per message")
    parser.add_examples("watch", "watch --topic /robot1/emotion_node/emotions --json")


def run(arguments: argparse.Namespace) -> int:
    """Show messages until interrupted."""
    from rich.live import Live

    from emotion_perception.cli.output import plain_console
    from emotion_perception.client.watch import Screen, listen
    from emotion_perception.io.json_codec import people_to_json

    if arguments.json:
        # The middleware writes messages of its own to the standard output. They are redirected to
        # the error output, so that the standard output contains only JSON.
        lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        listen(
            arguments.topic, lambda people: print(json.dumps(people_to_json(people)), file=lines)
        )
        return 0
    console = plain_console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            screen = Screen(lambda content: live.update(content, refresh=True))
            listen(arguments.topic, screen.update, screen.silence)
        return 0
    screen = Screen(console.print)
    listen(arguments.topic, screen.update_if_changed, screen.silence)
    return 0
