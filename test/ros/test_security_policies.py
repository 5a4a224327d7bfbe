"""The SROS 2 policies name the topics and services that the nodes have, and nothing else."""

import functools
import os
import shutil
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from rclpy.action.graph import (
    get_action_client_names_and_types_by_node,
    get_action_server_names_and_types_by_node,
)
from support.node_rig import Rig
from support.robot import Robot

from emotion_perception.client import EmotionClient

PEOPLE_SOURCE = Path(__file__).parents[1] / "support" / "people_source.py"
POLICIES = Path(__file__).parents[2] / "config" / "sros2"

pytestmark = [pytest.mark.ros, pytest.mark.serial]


def permitted(name):
    """Return what the policy of a file permits: {(kind, right): full names}."""
    (profile,) = ElementTree.parse(POLICIES / f"{name}.xml").iter("profile")
    node, names = profile.get("node"), {}
    assert profile.get("ns") == "/"
    for group in profile:
        ((right, allowed),) = group.attrib.items()
        assert allowed == "ALLOW"
        listed = [entry.text.replace("~", f"/{node}") for entry in group]
        listed = [text if text.startswith("/") else f"/{text}" for text in listed]
        assert len(listed) == len(set(listed))
        names[group.tag, right] = set(listed)
    return node, names


def used(observer, node):
    """Return what a node has: {(kind, right): full names}."""

    def names_of(kind):
        return getattr(observer, f"get_{kind}_names_and_types_by_node")(node, "/")

    result = {
        ("topics", "subscribe"): names_of("subscriber"),
        ("topics", "publish"): names_of("publisher"),
        ("services", "reply"): names_of("service"),
        ("services", "request"): names_of("client"),
        ("actions", "execute"): get_action_server_names_and_types_by_node(observer, node, "/"),
        ("actions", "call"): get_action_client_names_and_types_by_node(observer, node, "/"),
    }
    return {key: {name for name, _ in entries} for key, entries in result.items() if entries}


def used_in_the_end(rig, observer, quiet_s=1.0):
    """Return what the node has, once nothing new was discovered for a while."""
    rig.until(lambda: ("emotion_node", "/") in observer.get_node_names_and_namespaces())
    seen = [({}, 0.0)]

    def quiet():
        now, names = time.monotonic(), used(observer, "emotion_node")
        if names != seen[-1][0]:
            seen.append((names, now))
        return now - seen[-1][1] > quiet_s

    rig.until(quiet)
    return seen[-1][0]


def merged(first, second):
    return {key: first.get(key, set()) | second.get(key, set()) for key in first | second}


def use_of_node(domain, **parameters):
    rig = Rig(domain, parameters=parameters)
    try:
        assert rig.node.trigger_configure().name == "SUCCESS"
        assert rig.node.trigger_activate().name == "SUCCESS"
        rig.until(lambda: ("emotion_node", "/") in rig.other.get_node_names_and_namespaces())
        rig.until(lambda: rig.other.count_publishers("/emotion_node/emotions") == 1)
        return used_in_the_end(rig, rig.other)
    finally:
        rig.close()


def use_of_node_with_outputs(folder, environment):
    """Return what a node has that publishes a person with a face in every form."""
    parameters = {"ros4hri.enabled": "true", "vision_msgs": "true"}
    robot = Robot(folder / "node.log", "faces", environment=environment, **parameters)
    try:
        robot.until(lambda: robot.node.count_publishers("/humans/faces/f00001/expression"))
        return used_in_the_end(robot, robot.node)
    finally:
        robot.close()


def use_of_node_with_boxes(folder, environment, source, region):
    """Return what a node has that gets boxes from another node."""
    parameters = {"detector.name": "topic", "detector.source": source}
    robot = Robot(folder / f"{source}.log", environment=environment, **parameters)
    try:
        robot.until(lambda: robot.node.count_subscribers(region))
        return used_in_the_end(robot, robot.node)
    finally:
        robot.close()


def with_wildcards(names, patterns):
    """Return the names, those that match a pattern with a wildcard replaced by it."""
    wild = [pattern for pattern in patterns if "*" in pattern]
    return {next((p for p in wild if fnmatch(name, p)), name) for name in names}


def test_policy_of_the_node_permits_what_it_has_and_nothing_else(
    ros_domain, ros_domains, tmp_path, interfaces, monkeypatch
):
    # Each in a domain of its own: nodes of one name, of which one has just ended, are confused.
    raw = use_of_node(next(ros_domains), **{"use_sim_time": True, "depth.enabled": True})
    compressed = use_of_node(next(ros_domains), image_transport="compressed")
    outputs = use_of_node_with_outputs(tmp_path, interfaces)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(ros_domains)))
    detections = use_of_node_with_boxes(tmp_path, interfaces, "detections", "/detections")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(ros_domains)))
    command = [sys.executable, str(PEOPLE_SOURCE), "bodies"]
    people = subprocess.Popen(command, env=os.environ | interfaces)
    try:
        region = "/humans/bodies/xkcdq/roi"
        bodies = use_of_node_with_boxes(tmp_path, interfaces, "bodies", region)
    finally:
        people.kill()
        people.wait()
    node, names = permitted("emotion_node")
    # Their messages need not be installed here.
    videos = {("topics", "subscribe"): {"/image/ffmpeg", "/image/foxglove"}}
    has = functools.reduce(merged, (raw, compressed, outputs, detections, bodies, videos))
    assert node == "emotion_node"
    assert {key: with_wildcards(has[key], names.get(key, ())) for key in has} == names


def test_policy_of_the_planner_permits_what_it_has_and_nothing_else(ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    try:
        node = rclpy.create_node("comfort_planner", context=context)
        client = EmotionClient(node)
        assert permitted("planner") == ("comfort_planner", used(node, "comfort_planner"))
        client.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def test_policies_are_installed(tmp_path):
    install = [sys.executable, "setup.py", "--quiet", "install_data", "--install-dir"]
    subprocess.run([*install, str(tmp_path)], cwd=POLICIES.parents[1], check=True)
    installed = tmp_path / "share" / "emotion_perception" / "config" / "sros2"
    for name in ("emotion_node.xml", "planner.xml"):
        assert (installed / name).read_bytes() == (POLICIES / name).read_bytes()


ATTACK = """
import rclpy
from rcl_interfaces.srv import SetParameters

from emotion_perception.client import EmotionClient

rclpy.init()
node = rclpy.create_node("comfort_planner")
people = EmotionClient(node)
print("listening", flush=True)
client = node.create_client(SetParameters, "/emotion_node/set_parameters")
print("reached" if client.wait_for_service(10.0) else "refused")
"""


def no_security(environment):
    """Return why the middleware here enforces no policy; empty if it does."""
    program = "import rclpy; rclpy.init(); rclpy.create_node('probe')"
    done = subprocess.run(
        [sys.executable, "-c", program, "--ros-args", "--enclave", "/emotion_perception/planner"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if done.returncode == 0:
        return ""
    reasons = [line for line in done.stderr.splitlines() if "RCLError" in line]
    return (reasons or done.stderr.splitlines())[-1]


def test_planner_cannot_reach_the_parameters_where_policies_are_enforced(ros_domain, tmp_path):
    environment = os.environ | {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(tmp_path),
    }
    for name in ("identity_ca.cert.pem", "cert.pem", "key.pem", "permissions_ca.cert.pem",
                 "governance.p7s", "permissions.p7s"):  # fmt: skip
        file = tmp_path / "enclaves" / "emotion_perception" / "planner" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    reason = no_security(environment)
    if "security libraries" in reason or shutil.which("ros2") is None:
        pytest.skip(f"policies are not enforced here: {reason}")
    shutil.rmtree(tmp_path)
    keystore = ["ros2", "security", "generate_artifacts", "-k", str(tmp_path)]
    policies = [str(POLICIES / f"{name}.xml") for name in ("emotion_node", "planner")]
    subprocess.run([*keystore, "-p", *policies], check=True)
    node = [sys.executable, "-m", "emotion_perception.ros.node", "--ros-args", "-p",
            "autostart:=false", "--enclave", "/emotion_perception/emotion_node"]  # fmt: skip
    planner = [sys.executable, "-c", ATTACK, "--ros-args", "--enclave",
               "/emotion_perception/planner"]  # fmt: skip
    process = subprocess.Popen(node, env=environment)
    try:
        done = subprocess.run(planner, capture_output=True, text=True, env=environment, timeout=60)
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(30)
    assert "listening" in done.stdout, done.stderr
    assert "reached" not in done.stdout, done.stderr
