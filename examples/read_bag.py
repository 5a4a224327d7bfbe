"""Read the estimates from a bag that `emotion-perception replay` or `ros2 bag record` wrote.

    python3 examples/read_bag.py out/replay/my_bag/bag

It needs no ROS: the bag carries the definitions of its messages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rosbags.highlevel import AnyReader

from emotion_perception.core.values import Status
from emotion_perception.io.bags import typestore
from emotion_perception.io.message_codec import PEOPLE, people_from_msg


def main() -> None:
    """Print each person's new assessments in the order of the messages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path)
    arguments = parser.parse_args()
    printed = set()
    with AnyReader([arguments.bag], default_typestore=typestore()) as reader:
        connections = [c for c in reader.connections if c.msgtype == PEOPLE]
        for connection, _, raw in reader.messages(connections=connections):
            people = people_from_msg(reader.deserialize(raw, connection.msgtype))
            for person in people.people:
                key = person.track.person_id, person.assessed_ns
                if person.status is Status.ASSESSED and key not in printed:
                    printed.add(key)
                    print(f"{person.assessed_ns / 1e9:.2f} s", *key[:1], person.label)


if __name__ == "__main__":
    main()
