"""What a planner learns from a node over DDS: the people in view, and whether the node works."""

import signal
import time

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from rclpy.duration import Duration
from rclpy.parameter import Parameter
from rclpy.qos import LivelinessPolicy
from rosgraph_msgs.msg import Clock
from support.robot import FAST, Robot
from support.stand_in import Stage, sad

from emotion_perception.client import (
    Appeared,
    EmotionClient,
    LabelChanged,
    Left,
    NodeStatus,
    StatusChanged,
    emotion_client,
)
from emotion_perception.core.values import Status
from emotion_perception.ros.conversions import time_to_msg

pytestmark = [pytest.mark.ros, pytest.mark.serial]

LEASE_S = 2 * FAST["heartbeat"]
SLACK_S = 3.0  # for a busy machine
BEATING = {"heartbeat": FAST["heartbeat"]}


@pytest.fixture
def robot(ros_domain, tmp_path):
    made = []

    def start(**options):
        made.append(Robot(tmp_path / f"node_{len(made)}.log", **options))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def stage(ros_domain):
    made = []

    def make(**options):
        made.append(Stage(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def see_a_person(rig, seconds):
    """Show the node two frames: the first one starts a track, the second one confirms it."""
    rig.show(seconds)
    assert rig.show(seconds + 0.1).people


def statuses(events):
    return [event.after for event in events if type(event) is StatusChanged]


def test_planner_learns_who_is_in_view_and_how_they_appear(robot):
    r, events = robot(), []
    client = EmotionClient(r.node, events.append, hold_s=0)
    r.until(lambda: any(type(event) is LabelChanged for event in events))
    of_people = [type(event) for event in events if type(event) is not StatusChanged]
    assert of_people == [Appeared, LabelChanged]
    assert client.status is NodeStatus.LIVE
    (person,) = client.people.values()
    assert person.score("happiness") == pytest.approx(0.9)
    assert 0 <= person.age_s < 30
    assert client.newest.camera == "camera"
    assert client.lost == 0


def test_planner_learns_within_the_lease_that_the_node_hangs(robot):
    r, events = robot(), []
    client = EmotionClient(r.node, events.append)
    r.until(lambda: client.people)
    events.clear()
    r.process.send_signal(signal.SIGSTOP)
    r.until(lambda: client.status is NodeStatus.SILENT, LEASE_S + SLACK_S)
    assert [p.estimate.status for p in client.people.values()] == [Status.EXPIRED]
    r.process.send_signal(signal.SIGCONT)
    r.until(lambda: client.status is NodeStatus.LIVE)
    assert statuses(events) == [NodeStatus.SILENT, NodeStatus.LIVE]
    assert not any(type(event) is Left for event in events)


def test_planner_learns_that_the_node_ends_and_starts_again(robot):
    r, events = robot(), []
    client = EmotionClient(r.node, events.append)
    r.until(lambda: client.people)
    run = client.newest.run_id
    r.process.send_signal(signal.SIGTERM)
    r.until(lambda: client.status is NodeStatus.ABSENT)
    assert statuses(events)[-2:] == [NodeStatus.INACTIVE, NodeStatus.ABSENT]
    assert client.people == {}
    robot()
    r.until(lambda: client.people)
    assert client.newest.run_id != run
    assert client.lost == 0


def test_all_people_leave_when_a_killed_node_starts_again(robot):
    r, events = robot(), []
    client = EmotionClient(r.node, events.append)
    r.until(lambda: client.people)
    run = client.newest.run_id
    r.process.kill()
    r.process.wait()
    robot()
    r.until(lambda: client.newest.run_id != run and client.people)
    kinds = [type(event) for event in events if type(event) in (Appeared, Left)]
    assert kinds == [Appeared, Left, Appeared]


def test_busy_planner_does_not_take_the_node_for_silent(robot):
    r, events = robot(), []
    client = EmotionClient(r.node, events.append)
    r.until(lambda: client.people)
    events.clear()
    time.sleep(3 * LEASE_S)
    heard = len(r.messages)
    r.until(lambda: len(r.messages) > heard + 5)
    assert statuses(events) == []


def test_late_planner_learns_of_people_without_a_new_image(rig):
    r = rig(parameters=BEATING).start()
    see_a_person(r, 1.0)
    client = EmotionClient(r.other)
    r.until(lambda: client.people)
    assert client.newest.stamp_ns == r.received[-1].stamp_ns


def test_deactivated_node_is_inactive_and_not_silent(rig):
    r, events = rig(parameters=BEATING).start(), []
    client = EmotionClient(r.other, events.append)
    see_a_person(r, 1.0)
    r.until(lambda: client.people)
    events.clear()
    assert r.node.trigger_deactivate().name == "SUCCESS"
    r.until(lambda: client.status is NodeStatus.INACTIVE)
    assert client.people == {}
    r.spin(3 * LEASE_S)
    assert statuses(events) == [NodeStatus.INACTIVE]
    assert r.node.trigger_activate().name == "SUCCESS"
    r.until(lambda: r.camera.get_subscription_count() == 1)
    see_a_person(r, 2.0)
    r.until(lambda: client.people)
    assert client.status is NodeStatus.LIVE


def test_planner_in_a_namespace_hears_the_node_of_its_namespace(rig):
    r = rig(namespace="robot_1", parameters=BEATING).start()
    client = EmotionClient(r.other)
    assert client.topic == "/robot_1/emotion_node/emotions"
    see_a_person(r, 1.0)
    r.until(lambda: client.people)


def test_two_nodes_on_two_topics_are_kept_apart(stage):
    s = stage()
    topics = ["/front/emotion_node/emotions", "/rear/emotion_node/emotions"]
    front, rear = (EmotionClient(s.node, topic=topic) for topic in topics)
    for topic, name in zip(topics, ["p00001", "p00002"], strict=True):
        s.send(s.publisher(topic), 1.0, sad(1.0, name))
    s.until(lambda: front.people and rear.people)
    assert (list(front.people), list(rear.people)) == (["p00001"], ["p00002"])


def test_invalid_topic_is_an_error(stage):
    with pytest.raises(ValueError, match="topic"):
        EmotionClient(stage().node, topic="two words")


def test_ages_follow_the_simulated_clock(stage):
    s = stage(parameter_overrides=[Parameter("use_sim_time", value=True)])
    clock = s.other.create_publisher(Clock, "/clock", 10)
    client = EmotionClient(s.node)

    def tick(seconds):
        clock.publish(Clock(clock=time_to_msg(round(seconds * 1e9))))
        s.until(lambda: s.node.get_clock().now().nanoseconds == round(seconds * 1e9))

    s.until(lambda: clock.get_subscription_count() > 0)
    tick(100.0)
    s.send(s.publisher(), 100.0, sad(99.0))
    s.until(lambda: client.people)
    assert client.people["p00001"].age_s == pytest.approx(1.0)
    tick(103.5)
    assert client.people["p00001"].age_s == pytest.approx(4.5)
    tick(50.0)  # a bag begins again
    assert client.people["p00001"].age_s == pytest.approx(1.0)


@pytest.mark.parametrize("offered_s", [0.4, None])
def test_silence_is_judged_by_the_deadline_that_is_offered_or_passed(stage, monkeypatch, offered_s):
    monkeypatch.setattr(emotion_client, "_UNPROMISED_S", 3600.0)
    s = stage()
    client = EmotionClient(s.node, silence_s=None if offered_s else 0.4)
    lease = Duration(seconds=offered_s or 0)
    manual = LivelinessPolicy.MANUAL_BY_TOPIC
    promise = {"deadline": lease, "liveliness": manual, "liveliness_lease_duration": lease}
    publisher = s.publisher(**promise if offered_s else {})
    s.send(publisher, 1.0, sad(1.0))
    s.until(lambda: client.status is NodeStatus.LIVE)
    s.until(lambda: client.status is NodeStatus.SILENT)
    s.other.destroy_publisher(publisher)
    s.until(lambda: client.status is NodeStatus.ABSENT)
    assert client.people == {}


def test_late_planner_gives_the_node_the_time_that_it_promises(stage):
    s, events = stage(), []
    publisher = s.publisher(deadline=Duration(seconds=5.0))
    client = EmotionClient(s.node, events.append)
    s.until(lambda: publisher.get_subscription_count() == 1)
    s.spin(2.5)
    assert events == []
    s.send(publisher, 1.0, sad(1.0))
    s.until(lambda: client.people)
    assert statuses(events) == [NodeStatus.LIVE]


def test_closed_client_hears_nothing(stage):
    s, events = stage(), []
    client, other = EmotionClient(s.node, events.append), EmotionClient(s.node)
    client.close()
    s.send(s.publisher(), 1.0, sad(1.0))
    s.until(lambda: other.people)
    assert events == []
