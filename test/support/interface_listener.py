"""A process that prints what it sees of hri_msgs, vision_msgs and crops, a JSON per line.

`python interface_listener.py [TOPIC]` also publishes an `hri_msgs/IdsList` on the topic.
"""

import importlib
import json
import math
import sys

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile

PERIOD_S = 0.1


def plain(value):
    """Return a message as plain values: NaN becomes None, the data of an image its length."""
    if hasattr(value, "get_fields_and_field_types"):
        names = value.get_fields_and_field_types()
        return {
            name: len(value.data) if name == "data" else plain(getattr(value, name))
            for name in names
        }
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if isinstance(value, str | int) else [plain(item) for item in value]


def tell(event, topic, **values):
    print(json.dumps({"event": event, "topic": topic, **values}), flush=True)


class Listener(Node):
    def __init__(self, rival_topic):
        super().__init__("interface_listener")
        self._heard = {}
        self.create_timer(PERIOD_S, self._look)
        if rival_topic:
            kind = importlib.import_module("hri_msgs.msg").IdsList
            self._rival = self.create_publisher(kind, rival_topic, 1)

    def _look(self):
        present = {
            topic: kinds[0]
            for topic, kinds in self.get_topic_names_and_types()
            if kinds[0].split("/")[0] in ("hri_msgs", "vision_msgs") or topic.endswith("/cropped")
        }
        for topic, kind in present.items():
            if topic not in self._heard and (infos := self.get_publishers_info_by_topic(topic)):
                self._listen(topic, kind, infos[0].qos_profile)
        for topic in list(self._heard):
            if not self.get_publishers_info_by_topic(topic):
                self.destroy_subscription(self._heard.pop(topic))
                tell("gone", topic)

    def _listen(self, topic, kind, qos):
        package, _, name = kind.split("/")
        policies = [qos.reliability.name, qos.durability.name]
        tell("topic", topic, type=kind, policies=policies)
        self._heard[topic] = self.create_subscription(
            getattr(importlib.import_module(f"{package}.msg"), name),
            topic,
            lambda message: tell("message", topic, message=plain(message)),
            QoSProfile(depth=50, reliability=qos.reliability, durability=qos.durability),
        )


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(Listener(sys.argv[1] if len(sys.argv) > 1 else ""))
