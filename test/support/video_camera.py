"""A process with a node that reads a video, and its camera: `video_camera.py TRANSPORT CASE`.

It prints what the node made of the video as JSON. The message types need not be installed in the
process of the tests.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy

from emotion_perception.core.values import Box
from emotion_perception.ros.camera import TRANSPORTS
from emotion_perception.testing.fakes import ScriptedDetector
from support.node_rig import Rig
from support.videos import drawn_images, encoded, serialized

COUNT, KEY_INTERVAL = 25, 10


class Eye(ScriptedDetector):
    """Keeps what the node shows it."""

    def __init__(self):
        super().__init__([Box(10, 10, 60, 60)])
        self.frames = {}

    def detect(self, frame):
        self.frames[frame.stamp_ns] = frame.image
        return super().detect(frame)


class VideoRig(Rig):
    def __init__(self, transport, **parameters):
        self.eye = Eye()
        parameters = {"image_transport": transport, **parameters}
        super().__init__(int(os.environ["ROS_DOMAIN_ID"]), detector=self.eye, parameters=parameters)
        package, _, name = TRANSPORTS[transport].msgtype.split("/")
        self.camera = self.other.create_publisher(
            getattr(importlib.import_module(f"{package}.msg"), name),
            f"image/{transport}",
            QoSProfile(depth=COUNT, reliability=ReliabilityPolicy.RELIABLE),
        )

    @property
    def health(self):
        return self.node._camera.health

    def show(self, raw):
        """Publish a message and wait until the node has taken it."""
        received = self.health.received
        self.camera.publish(raw)
        self.until(lambda: self.health.received > received)


def main(transport, case):
    images = drawn_images(COUNT)
    raws = serialized(encoded(images, key_interval=KEY_INTERVAL), TRANSPORTS[transport].msgtype)
    rig = VideoRig(transport, **({"max_rate": 2.0} if case == "slow" else {})).start()
    if case == "busy":
        rig.show(raws[0])
        for raw in raws[1:]:
            rig.camera.publish(raw)
        time.sleep(0.5)  # the node does nothing meanwhile
        rig.until(lambda: rig.health.received == 2)
    else:
        for number, raw in enumerate(raws):
            if case != "lost" or number not in (4, 5):
                rig.show(raw)
    newest_ns = max(rig.eye.frames)
    rig.until(lambda: rig.received and rig.received[-1].stamp_ns == newest_ns)
    difference = [
        float(np.abs(images[round(stamp / 1e8) - 10].astype(int) - image).mean())
        for stamp, image in rig.eye.frames.items()
    ]
    health = rig.health
    print(json.dumps({
        "seen": [round(stamp / 1e8) - 10 for stamp in rig.eye.frames],
        "difference": max(difference),
        "unread": health.unread,
        "unreadable": health.unreadable,
        "missing": health.missing,
        "people": len(rig.received[-1].people),
    }))  # fmt: skip
    rig.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
