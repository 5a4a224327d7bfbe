"""Markers project onto the boxes of the people through the lens of the camera."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo
from support.node_rig import ALICE, Rig
from visualization_msgs.msg import Marker, MarkerArray

from emotion_perception.core.values import Box, Estimate, PeopleEstimate, Status, Track
from emotion_perception.ros.markers import people_to_markers

pytestmark = [pytest.mark.ros, pytest.mark.serial]

CONFIG = Path(__file__).parents[2] / "config"
LENS = CameraInfo(
    width=640, height=480, p=[500.0, 0, 320, 0, 0, 510, 240, 0, 0, 0, 1, 0], k=[1.0] * 9
)


def people_of(position=(np.nan, np.nan, np.nan), width=640, height=480):
    track = Track("p00001", Box(100, 50, 300, 450), 0.9, position)
    estimate = Estimate(track, Status.ASSESSED, label="peace", confidence=0.7)
    return PeopleEstimate(10**9 + 5, "optical", width, height, "", "", ("peace",), (estimate,))


def project(point, fx=500, fy=510, cx=320, cy=240):
    """Return the pixel at which a camera sees a point."""
    return point.x / point.z * fx + cx, point.y / point.z * fy + cy


def test_marker_covers_the_box_at_any_distance():
    for position, depth in (((np.nan,) * 3, 1.0), ((0.1, 0.2, 2.5), 2.5)):
        cleared, outline, text = people_to_markers(people_of(position), LENS).markers
        assert cleared.action == Marker.DELETEALL
        assert {point.z for point in outline.points} == {depth}
        corners = [project(point) for point in outline.points]
        assert np.allclose(corners[0], (100, 50), atol=1e-3)
        assert np.allclose(corners[2], (300, 450), atol=1e-3)
        assert corners[0] == corners[-1]
        assert text.text == "p00001 peace 0.70"
        assert outline.header.frame_id == "optical"
        assert outline.header.stamp.nanosec == 5
        assert outline.color.a == 1.0


def test_image_of_another_size_than_calibrated_is_scaled():
    _, outline, _ = people_to_markers(people_of(width=1280, height=960), LENS).markers
    where = project(outline.points[0], 1000, 1020, 640, 480)
    assert np.allclose(where, (100, 50), atol=1e-3)


def test_camera_matrix_is_used_without_a_projection_matrix():
    raw = CameraInfo(width=640, height=480, k=[400.0, 0, 320, 0, 400, 240, 0, 0, 1])
    _, outline, _ = people_to_markers(people_of(), raw).markers
    assert np.allclose(project(outline.points[0], 400, 400), (100, 50), atol=1e-3)
    assert len(people_to_markers(people_of(), CameraInfo()).markers) == 1  # not calibrated: none


def test_node_publishes_markers_with_subscribers_and_calibration(ros_domain):
    rig = Rig(ros_domain).start()
    drawn = []
    try:
        rig.show(1.0)
        lens = rig.other.create_publisher(CameraInfo, "camera_info", 1)
        listener = rig.other.create_subscription(
            MarkerArray, "emotion_node/markers", drawn.append, QoSProfile(depth=10)
        )
        rig.until(lambda: rig.node.count_subscribers("emotion_node/markers") == 1)
        rig.until(lambda: lens.get_subscription_count() == 1)
        rig.show(1.1)
        assert not drawn
        info = CameraInfo(width=320, height=240, k=[300.0, 0, 160, 0, 300, 120, 0, 0, 1])
        stamp = 1.2
        while not drawn:
            lens.publish(info)
            rig.show(stamp)
            rig.spin(0.1)
            stamp += 0.1
        outline = drawn[-1].markers[1]
        assert np.allclose(project(outline.points[0], 300, 300, 160, 120), ALICE[:2], atol=1e-2)
        rig.other.destroy_subscription(listener)
    finally:
        rig.close()


def test_layouts_use_topics_of_the_node():
    rviz = yaml.safe_load((CONFIG / "emotion_perception.rviz").read_text())
    displays = {d["Name"]: d["Topic"]["Value"] for d in rviz["Visualization Manager"]["Displays"]}
    assert displays["Emotions"] == "/emotion_node/markers"
    assert displays["Debug image"] == "/emotion_node/debug_image"
    foxglove = json.loads((CONFIG / "foxglove.json").read_text())
    panels = foxglove["configById"]
    assert "/emotion_node/markers" in panels["Image!people"]["topics"]
    fields = {path["value"].rpartition(".")[2] for path in panels["Plot!affect"]["paths"]}
    from emotion_perception_msgs.msg import PersonEmotion

    assert fields < set(PersonEmotion.get_fields_and_field_types())

    def leaves(node):
        if isinstance(node, str):
            return {node}
        return leaves(node["first"]) | leaves(node["second"])

    assert leaves(foxglove["layout"]) == set(panels)
