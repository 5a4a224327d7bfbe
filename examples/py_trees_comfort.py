"""A behaviour tree (py_trees) that comforts a person who has appeared distressed for two seconds.

    python3 examples/py_trees_comfort.py

The condition fails while the node is not LIVE: the tree then falls back to idling.
"""

from __future__ import annotations

import py_trees
import rclpy
from py_trees.common import Access, Status
from rclpy.executors import ExternalShutdownException

from emotion_perception.client import EmotionClient, NodeStatus


class PersonInDistress(py_trees.behaviour.Behaviour):
    """Succeeds while a person appears distressed, and writes `person_id` to the blackboard."""

    def __init__(self, client: EmotionClient, for_s: float = 2.0, max_age_s: float = 3.0) -> None:
        super().__init__("person in distress")
        self._client, self._limits = client, (for_s, max_age_s)
        self._board = self.attach_blackboard_client()
        self._board.register_key("person_id", Access.WRITE)

    def update(self) -> Status:
        """Choose the person whose assessment is the newest."""
        if self._client.status is not NodeStatus.LIVE:
            self.feedback_message = f"the emotion node is {self._client.status.value}"
            return Status.FAILURE
        people = self._client.distressed(*self._limits)
        if not people:
            self.feedback_message = "no person appears distressed"
            return Status.FAILURE
        newest = min(people, key=lambda person: person.age_s)
        self._board.person_id = newest.person_id
        self.feedback_message = f"{newest.person_id}: {newest.estimate.label}"
        return Status.SUCCESS


class Comfort(py_trees.behaviour.Behaviour):
    """Stands for the behaviour of a robot: approaches the person and speaks."""

    def __init__(self) -> None:
        super().__init__("comfort")
        self._board = self.attach_blackboard_client()
        self._board.register_key("person_id", Access.READ)

    def initialise(self) -> None:
        """Begin with the person on the blackboard."""
        print(f"comforting {self._board.person_id}", flush=True)

    def update(self) -> Status:
        """Go on while the condition before this behaviour holds."""
        return Status.RUNNING


def make_tree(client: EmotionClient) -> py_trees.trees.BehaviourTree:
    """Return the tree: comfort a person in distress, otherwise idle."""
    comfort = py_trees.composites.Sequence("comfort a person", memory=False)
    comfort.add_children([PersonInDistress(client), Comfort()])
    root = py_trees.composites.Selector("robot", memory=False)
    root.add_children([comfort, py_trees.behaviours.Running("idle")])
    return py_trees.trees.BehaviourTree(root)


def main() -> None:
    """Tick the tree five times per second until it is interrupted."""
    rclpy.init()
    node = rclpy.create_node("py_trees_comfort")
    tree = make_tree(EmotionClient(node))
    node.create_timer(0.2, tree.tick)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
