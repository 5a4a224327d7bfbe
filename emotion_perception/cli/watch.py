"""The messages of a running node, readable or as JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.live import Live

from emotion_perception.cli.options import people_table, plain_console
from emotion_perception.core.values import PeopleEstimate
from emotion_perception.io.json_codec import people_to_json

_SILENCE = 5.0  # seconds without a message after which the user is told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--topic", help="default: that of a node without a namespace")
    parser.add_argument("--json", action="store_true", help="one JSON object a message")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    if arguments.json:
        # The middleware writes its complaints to the standard output: they go to the error output,
        # so that only JSON comes out here.
        lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        return _listen(arguments.topic, lambda people: print(_line(people), file=lines), None)
    console = plain_console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            show = _Screen(lambda what: live.update(what, refresh=True))
            return _listen(arguments.topic, show.people, show.silence)
    show = _Screen(console.print)
    return _listen(arguments.topic, show.news, show.silence)


class _Screen:
    """What a person reads."""

    def __init__(self, show: Callable[[Any], object]) -> None:
        self._show = show
        self._said: object = None

    def people(self, people: PeopleEstimate) -> None:
        title = f"{people.camera or 'camera'} at {people.stamp_ns / 1e9:.3f} s"
        self._show(people_table(title, people))

    def news(self, people: PeopleEstimate) -> None:
        """Only what is new about anybody: a pipe keeps everything."""
        said = [(e.track.person_id, e.status, e.label, e.reason) for e in people.people]
        if said != self._said:
            self._said = said
            self.people(people)

    def silence(self, topic: str, publishers: int) -> None:
        self._show(
            f"no message for {_SILENCE:.0f} s on {topic} (publishers there: {publishers}): is the "
            "node active, and the camera on?"
        )


def _line(people: PeopleEstimate) -> str:
    return json.dumps(people_to_json(people))


def _listen(
    topic: str | None,
    heard: Callable[[PeopleEstimate], None],
    silence: Callable[[str, int], None] | None,
) -> int:
    """Call back for each message, and for each time of silence, until interrupted."""
    import rclpy

    from emotion_perception.client.listener import TOPIC, EmotionListener, start_ros

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start_ros()
    node = rclpy.create_node("emotion_watch")
    newest = time.monotonic()

    def on_people(people: PeopleEstimate) -> None:
        nonlocal newest
        newest = time.monotonic()
        heard(people)

    try:
        listener = EmotionListener(node, on_people, topic or TOPIC)
        while True:
            rclpy.spin_once(node, timeout_sec=0.1)
            if silence and time.monotonic() - newest > _SILENCE:
                newest = time.monotonic()
                silence(listener.topic, listener.publishers)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
