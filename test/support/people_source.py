"""A process that detects one person in each image: `python people_source.py KIND`.

KIND: `ids` or `no_ids` (vision_msgs), `bodies` or `unstamped` (hri_msgs).
"""

import importlib
import sys

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

BOX = (64, 48, 128, 240)  # pixels


class Source(Node):
    def __init__(self, kind):
        super().__init__("people_source")
        self._kind = kind
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(Image, "image", self._on_image, best_effort)
        if kind in ("bodies", "unstamped"):
            self._types = importlib.import_module("hri_msgs.msg")
            self._tracked = self.create_publisher(self._types.IdsList, "/humans/bodies/tracked", 1)
            self._region = self.create_publisher(
                self._types.NormalizedRegionOfInterest2D, "/humans/bodies/xkcdq/roi", 1
            )
        else:
            self._types = importlib.import_module("vision_msgs.msg")
            self._array = self.create_publisher(self._types.Detection2DArray, "detections", 1)

    def _on_image(self, image):
        left, top, right, bottom = BOX
        if self._kind in ("bodies", "unstamped"):
            region = self._types.NormalizedRegionOfInterest2D(
                xmin=left / image.width, ymin=top / image.height,
                xmax=right / image.width, ymax=bottom / image.height,
            )  # fmt: skip
            if self._kind == "bodies":
                region.header = image.header
            self._region.publish(region)
            self._tracked.publish(self._types.IdsList(header=image.header, ids=["xkcdq"]))
            return
        person, chair = self._types.Detection2D(), self._types.Detection2D()
        for detection, name in ((person, "Person"), (chair, "chair")):
            result = self._types.ObjectHypothesisWithPose()
            result.hypothesis.class_id, result.hypothesis.score = name, 0.75
            detection.results = [result]
            detection.bbox.center.position.x = (left + right) / 2
            detection.bbox.center.position.y = (top + bottom) / 2
            detection.bbox.size_x, detection.bbox.size_y = float(right - left), float(bottom - top)
            detection.id = "7" if self._kind == "ids" else ""
        self._array.publish(
            self._types.Detection2DArray(header=image.header, detections=[person, chair])
        )


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(Source(sys.argv[1]))
