"""Show the messages of a running node on a terminal."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import rclpy

from emotion_perception.client.listener import TOPIC, EmotionListener, start_ros
from emotion_perception.client.people_table import people_table
from emotion_perception.core.values import PeopleEstimate

_SILENCE_S = 5.0  # without a message, after which a hint is shown


class Screen:
    """Shows tables of people; `show` receives what is printed."""

    def __init__(self, show: Callable[[Any], object]) -> None:
        """Create a screen that shows nothing yet."""
        self._show = show
        self._shown: object = None

    def update(self, people: PeopleEstimate) -> None:
        """Show the people of a message."""
        title = f"{people.camera or 'camera'} at {people.stamp_ns / 1e9:.3f} s"
        self._show(people_table(title, people))

    def update_if_changed(self, people: PeopleEstimate) -> None:
        """Show the people of a message whose status, labels or reasons differ from the last one."""
        states: list[object] = [people.source_status]
        states += [(e.track.person_id, e.status, e.label, e.reason) for e in people.people]
        if states != self._shown:
            self._shown = states
            self.update(people)

    def silence(self, topic: str, publishers: int) -> None:
        """Show that no message arrives, with a hint."""
        self._show(
            f"no message for {_SILENCE_S:.0f} s on {topic} ({publishers} publishers): check that "
            "the node is active and the camera publishes"
        )


def listen(
    topic: str | None,
    on_people: Callable[[PeopleEstimate], None],
    on_silence: Callable[[str, int], None] | None = None,
) -> None:
    """Call back for each message, and for each period of silence, until interrupted.

    Args:
        topic: The topic of the node; None: that of a node without a namespace.
        on_people: Receives the people of each message.
        on_silence: Receives the topic and the number of its publishers.

    Raises:
        ValueError: ROS cannot start, or the topic is not a valid name.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start_ros()
    node = rclpy.create_node("emotion_watch")
    newest = time.monotonic()

    def receive(people: PeopleEstimate) -> None:
        nonlocal newest
        newest = time.monotonic()
        on_people(people)

    try:
        listener = EmotionListener(node, receive, topic or TOPIC)
        while True:
            rclpy.spin_once(node, timeout_sec=0.1)
            if on_silence and time.monotonic() - newest > _SILENCE_S:
                newest = time.monotonic()
                on_silence(listener.topic, listener.publishers)
    except (KeyboardInterrupt, BrokenPipeError):
        return
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
