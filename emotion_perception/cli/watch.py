"""The messages of a running node, readable or as JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
import time

from rich.console import Console
from rich.live import Live

from emotion_perception.cli.tables import people_table
from emotion_perception.records import people_to_json
from emotion_perception.values import PeopleEstimate

_SILENCE = 5.0  # seconds without a message after which the user is told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topic", default="/emotion_node/emotions")
    parser.add_argument("--json", action="store_true", help="one JSON object a message")


def run(arguments: argparse.Namespace) -> int:
    import rclpy
    from rclpy.executors import ExternalShutdownException

    from emotion_perception.ros.client import EmotionListener

    newest: list[PeopleEstimate] = []
    rclpy.init(args=[])
    node = rclpy.create_node("emotion_watch")
    listener = EmotionListener(
        node, _print_json if arguments.json else newest.append, arguments.topic
    )
    # The table redraws in a terminal; in a pipe every change is a table of its own.
    live = Live(console=Console(), auto_refresh=False)
    try:
        if not arguments.json:
            live.start()
        heard = time.monotonic()
        while True:
            rclpy.spin_once(node, timeout_sec=0.1)
            if newest:
                heard = time.monotonic()
                live.update(people_table(_title(newest[-1]), newest[-1]), refresh=True)
                newest.clear()
            elif not arguments.json and time.monotonic() - heard > _SILENCE:
                heard = time.monotonic()
                live.update(
                    f"no message for {_SILENCE:.0f} s on {listener.topic}, where "
                    f"{listener.publishers} publish: is the node active, and the camera on?",
                    refresh=True,
                )
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        live.stop()
        node.destroy_node()
        rclpy.try_shutdown()


def _print_json(people: PeopleEstimate) -> None:
    try:
        print(json.dumps(people_to_json(people)), flush=True)
    except BrokenPipeError:
        sys.stdout = open("/dev/null", "w")  # noqa: SIM115  nobody reads any more
        raise KeyboardInterrupt from None


def _title(people: PeopleEstimate) -> str:
    return f"{people.camera or 'camera'} at {people.stamp_ns / 1e9:.3f} s"
