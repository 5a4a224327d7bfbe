"""A small behaviour planner: approach a person who has appeared distressed for two seconds.

python3 examples/comfort_planner.py
"""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from emotion_perception.client import EmotionClient, Event, Left, StatusChanged


class ComfortPlanner(Node):
    """Approaches each person once, and again only after the person left."""

    def __init__(self) -> None:
        super().__init__("comfort_planner")
        self._approached: set[str] = set()
        self._client = EmotionClient(self, self._on_event)
        self.create_timer(0.2, self._decide)
        self.get_logger().info(f"listening to {self._client.topic}")

    def _on_event(self, event: Event) -> None:
        match event:
            case Left(person):
                self._approached.discard(person.person_id)
            case StatusChanged(after=status):
                self.get_logger().info(f"the emotion node is {status.value}")

    def _decide(self) -> None:
        for person in self._client.distressed(for_s=2.0, max_age_s=3.0):
            if person.person_id not in self._approached:
                self._approached.add(person.person_id)
                label = person.estimate.label
                self.get_logger().info(f"approaching {person.person_id}, who shows {label}")


def main() -> None:
    """Run the planner until it is interrupted."""
    rclpy.init()
    try:
        rclpy.spin(ComfortPlanner())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
