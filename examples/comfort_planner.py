"""A small behaviour planner: approach a person who has looked distressed for two seconds.

    python3 examples/comfort_planner.py

It shows three rules for planners: react to a state that lasts, not to one message; treat ABSTAINED
and EXPIRED as "unknown"; measure time by the stamps of the images.
"""

from __future__ import annotations

from emotion_perception.core.values import Estimate, PeopleEstimate, Status

DISTRESS = {"suffering", "pain", "sadness", "fear", "disquietment", "anger"}
LASTING = 2.0  # seconds


def looks_distressed(person: Estimate) -> bool:
    """Return whether a label of distress leads, or affect is clearly negative and agitated."""
    if person.status is not Status.ASSESSED:
        return False
    upset = person.vad is not None and person.vad.valence < -0.3 and person.vad.arousal > 0.2
    return person.label in DISTRESS or upset


class ComfortPlanner:
    """Decide which people to comfort, without any dependency on ROS."""

    def __init__(self) -> None:
        self._newest_ns = 0
        self._since_ns: dict[str, int] = {}
        self._comforted: set[str] = set()

    def on_people(self, people: PeopleEstimate) -> list[str]:
        """Return the ids of people who have now been distressed for long enough, each once."""
        now_ns = people.stamp_ns
        if now_ns < self._newest_ns:  # the clock of the camera was set back
            self._since_ns.clear()
        self._newest_ns = now_ns
        distressed = {p.track.person_id for p in people.people if looks_distressed(p)}
        self._since_ns = {i: self._since_ns.get(i, now_ns) for i in sorted(distressed)}
        self._comforted &= distressed
        lasting = [i for i, since in self._since_ns.items() if now_ns - since >= LASTING * 1e9]
        new = [i for i in lasting if i not in self._comforted]
        self._comforted |= set(new)
        return new


def main() -> None:
    """Run the planner until it is interrupted."""
    import rclpy
    from rclpy.executors import ExternalShutdownException

    from emotion_perception.client import EmotionListener

    rclpy.init()
    node = rclpy.create_node("comfort_planner")
    planner = ComfortPlanner()

    def react(people: PeopleEstimate) -> None:
        for person_id in planner.on_people(people):
            node.get_logger().info(f"{person_id} has looked distressed for a while: going there")

    listener = EmotionListener(node, react)
    node.get_logger().info(f"listening to {listener.topic}")
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
