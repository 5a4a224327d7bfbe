"""The benchmark of a node that gets images at full rate."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from emotion_perception.benchmarks.report import node_markdown
from emotion_perception.ros import load_measurement

pytestmark = [pytest.mark.ros, pytest.mark.serial]


def test_figures_of_a_node_under_load_cover_what_the_camera_sent(ros_domain, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(ros_domain))
    case = load_measurement.measure_case(load_measurement.STAND_INS, "compressed", 2, images=60)
    assert 0 < case["looked at"] <= case["images"]
    assert 0 < case["CPU [% of one core]"] < 200
    assert 0 < case["p50 [ms]"] <= case["p95 [ms]"]
    text = node_markdown({"machine": {"device": "test"}, "cases": [case]})
    assert f"| stand-ins | compressed | 2 | {case['looked at']} of {case['images']} |" in text
