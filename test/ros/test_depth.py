"""Positions from depth images over real DDS, and reports of those that cannot be used."""

import array
import math
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from support.node_rig import ALICE, Rig

from emotion_perception.ros.conversions import image_to_msg
from emotion_perception.ros.health import WARN
from emotion_perception.testing.fakes import frame_at

pytestmark = [pytest.mark.ros, pytest.mark.serial]

WIDTH, HEIGHT = 320, 240
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


class DepthRig(Rig):
    """A rig whose camera has depth and calibration."""

    def __init__(self, domain, **parameters):
        super().__init__(domain, parameters={"depth.enabled": True, **parameters})
        self.depth = self.other.create_publisher(Image, "depth/image", BEST_EFFORT)
        self.info = self.other.create_publisher(CameraInfo, "camera_info", BEST_EFFORT)

    def start(self):
        super().start()
        for publisher in (self.depth, self.info):
            self.until(lambda publisher=publisher: publisher.get_subscription_count())
        return self

    def calibrate(self):
        k = [250.0, 0.0, 159.5, 0.0, 250.0, 119.5, 0.0, 0.0, 1.0]
        self.info.publish(CameraInfo(width=WIDTH, height=HEIGHT, k=k))
        self.spin(0.2)

    def depth_message(self, seconds, pixels, camera="camera"):
        encoding = {"uint16": "16UC1", "float32": "32FC1", "uint8": "mono8"}[pixels.dtype.name]
        message = image_to_msg(frame_at(seconds, camera=camera))
        message.height, message.width = pixels.shape
        message.step = pixels.itemsize * message.width
        message.encoding = encoding
        message.data = array.array("B", pixels.tobytes())
        return message

    def show_depth(self, *arguments, **options):
        """Publish a depth image and wait until it can have arrived."""
        self.depth.publish(self.depth_message(*arguments, **options))
        self.spin(0.1)

    def position(self, seconds):
        """Publish an image, and return the position of the person in it."""
        (person,) = self.show(seconds).people
        return person.track.position


def drawn(metres=2.0):
    """Return a wall with a person before it."""
    pixels = np.full((HEIGHT, WIDTH), 6.0, np.float32)
    rows, columns = ALICE.pixels(WIDTH, HEIGHT)
    pixels[rows, columns] = metres
    return pixels


@pytest.fixture
def rig(rig):
    return lambda **parameters: rig(DepthRig, **parameters)


def test_person_has_the_position_of_the_depth_image_with_the_nearest_stamp(rig):
    r = rig().start()
    r.calibrate()
    r.show_depth(0.97, drawn(1.5))
    r.show(1.0)
    r.show_depth(1.07, drawn(2.5))
    x, y, z = r.position(1.1)
    assert z == pytest.approx(2.5)
    # The torso is 25 to 45 px from the left and 56 to 110 px from the top.
    assert x == pytest.approx((34.5 - 159.5) / 250 * 2.5, abs=0.02)
    assert y == pytest.approx((82.5 - 119.5) / 250 * 2.5, abs=0.02)
    r.show_depth(1.2, (drawn(3.0) * 1000).astype(np.uint16))
    assert r.position(1.2)[2] == pytest.approx(3.0)
    r.until(lambda: r.findings.get("depth", (0, ""))[1] == "depth images arrive")


def test_depth_image_of_half_the_size_gives_the_same_position(rig):
    r = rig().start()
    r.calibrate()
    r.show(1.0)
    r.show_depth(1.1, np.ascontiguousarray(drawn(2.5)[::2, ::2]))
    x, _, z = r.position(1.1)
    assert z == pytest.approx(2.5)
    assert x == pytest.approx((34.5 - 159.5) / 250 * 2.5, abs=0.03)


def test_node_without_depth_subscribes_to_none(rig):
    r = rig(**{"depth.enabled": False})
    Rig.start(r)
    r.show(1.0)
    assert all(map(math.isnan, r.position(1.1)))
    assert r.other.count_subscribers("depth/image") == 0
    r.until(lambda: "camera" in r.findings)
    assert "depth" not in r.findings


def no_publisher(r):
    r.other.destroy_publisher(r.depth)


REFUSED = {
    "absent": (no_publisher, "no node publishes there; check the topic and the remapping"),
    "silent": (lambda r: None, "none has arrived"),
    "old": (lambda r: r.show_depth(0.5, drawn()), "the nearest stamp differs by "),
    "elsewhere": (
        lambda r: r.show_depth(1.1, drawn(), camera="depth_optical"),
        "its frame_id is 'depth_optical' and that of the image 'camera'",
    ),
    "wide": (
        lambda r: r.show_depth(1.1, np.ascontiguousarray(drawn()[:180])),
        "its shape is 320 x 180 and that of the image 320 x 240",
    ),
    "colour": (
        lambda r: r.show_depth(1.1, drawn().astype(np.uint8)),
        "encoding 'mono8' is not that of a depth image",
    ),
    "uncalibrated": (lambda r: r.show_depth(1.1, drawn()), "no CameraInfo arrives on /camera_info"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_depth_that_cannot_be_used_is_reported_and_gives_no_position(rig, case):
    cause, reason = REFUSED[case]
    r = rig().start()
    if case != "uncalibrated":
        r.calibrate()
    r.show(1.0)
    cause(r)
    assert all(map(math.isnan, r.position(1.1)))
    r.until(lambda: reason in r.findings.get("depth", (0, ""))[1])
    level, message = r.findings["depth"]
    assert level == WARN
    assert "2 of 2 images have no depth image on /depth/image" in message


def test_positions_end_with_the_depth_camera_and_the_subscription_with_the_activity(rig):
    r = rig().start()
    r.calibrate()
    r.show_depth(1.0, drawn())
    r.show(1.0)
    assert r.position(1.05)[2] == pytest.approx(2.0)
    assert math.isnan(r.position(1.2)[2])
    assert r.node.trigger_deactivate().name == "SUCCESS"
    r.until(lambda: r.depth.get_subscription_count() == 0)
    assert r.node.trigger_activate().name == "SUCCESS"
    r.until(lambda: r.depth.get_subscription_count() == 1)
    r.until(lambda: r.camera.get_subscription_count() == 1)
    r.show(2.0)
    assert math.isnan(r.position(2.1)[2]), "the calibration of before is not assumed"


def test_depth_that_waits_for_a_busy_node_belongs_to_the_image_that_waits_with_it(rig):
    r = rig().start()
    r.calibrate()
    r.show(1.0)
    frame = frame_at(1.5)
    r.camera.publish(image_to_msg(frame))
    for step in range(6):
        r.depth.publish(r.depth_message(1.1 + step / 10, drawn(2.0 + step / 10)))
    time.sleep(0.3)  # the node does nothing meanwhile; it takes the image first
    r.until(lambda: r.received[-1].stamp_ns == frame.stamp_ns)
    assert r.received[-1].people[0].track.position[2] == pytest.approx(2.4)
