"""QoS overrides by parameters, for each publisher and subscription of the node."""

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from lifecycle_msgs.msg import Transition
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, ReliabilityPolicy

pytestmark = [pytest.mark.ros, pytest.mark.serial]

OWN = {
    "publisher": ["/emotion_node/emotions", "/emotion_node/debug_image", "/emotion_node/markers",
                  "/emotion_node/label_info", "/diagnostics"],
    "subscription": ["/image", "/camera_info"],
}  # fmt: skip
"""The topics of the node; those that rclpy creates for each node are not among them."""


@pytest.fixture
def rig(rig):
    def make(**overrides):
        return rig(parameters={f"qos_overrides.{name}": x for name, x in overrides.items()})

    return make


def profile(r, kind, topic):
    """Return the QoS with which the node takes part in a topic."""
    infos = []

    def seen():
        found = getattr(r.other, f"get_{kind}s_info_by_topic")(topic)
        infos[:] = [info for info in found if info.node_name == "emotion_node"]
        return infos

    r.until(seen)
    return infos[0].qos_profile


def test_every_publisher_and_subscription_takes_overrides_durability_included(rig):
    overrides = {}
    for kind, topics in OWN.items():
        for topic in topics:
            overrides |= {
                f"{topic}.{kind}.durability": "transient_local",
                f"{topic}.{kind}.reliability": "reliable",
            }
    r = rig(**overrides)
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert r.change(Transition.TRANSITION_ACTIVATE)
    for kind, topics in OWN.items():
        for topic in topics:
            used = profile(r, kind, topic)
            assert used.durability == DurabilityPolicy.TRANSIENT_LOCAL, topic
            assert used.reliability == ReliabilityPolicy.RELIABLE, topic


def test_every_policy_can_be_overridden(rig):
    name = "/emotion_node/emotions.publisher"
    r = rig(**{
        f"{name}.history": "keep_last",
        f"{name}.depth": 3,
        f"{name}.reliability": "best_effort",
        f"{name}.durability": "volatile",
        f"{name}.deadline": 7 * 10**9,
        f"{name}.lifespan": 8 * 10**9,
        f"{name}.liveliness": "automatic",
        f"{name}.liveliness_lease_duration": 9 * 10**9,
    })  # fmt: skip
    r.start()
    topics = {publisher.topic_name: publisher for publisher in r.node.publishers}
    used = topics["/emotion_node/emotions"].qos_profile
    assert (used.history, used.depth) == (HistoryPolicy.KEEP_LAST, 3)
    told = profile(r, "publisher", "/emotion_node/emotions")
    assert told.reliability == ReliabilityPolicy.BEST_EFFORT
    assert told.liveliness == LivelinessPolicy.AUTOMATIC
    assert told.deadline == Duration(seconds=7)
    assert told.lifespan == Duration(seconds=8)
    assert told.liveliness_lease_duration == Duration(seconds=9)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("/image.subscription.reliability", "nonsense", "one of "),
        ("/image.subscription.depth", "ten", "1 to 100000 messages"),
        ("/image.subscription.depth", 0, "1 to 100000 messages"),
        ("/diagnostics.publisher.depth", 2**40, "1 to 100000 messages"),
        ("/diagnostics.publisher.durability", "latched", "one of "),
        ("/emotion_node/emotions.publisher.deadline", -1, "nanoseconds, at least 0"),
        ("/emotion_node/emotions.publisher.deadline", 1.5, "nanoseconds, at least 0"),
        ("/image.subscription.durabilty", "volatile", "its form is qos_overrides.<topic>."),
        ("image.subscription.depth", 1, "its form is qos_overrides.<topic>."),
        ("/emotion_node/emotions.publisher.deadline", 10**9 // 2, "a deadline of 0.5 s"),
        ("/emotion_node/emotions.publisher.liveliness_lease_duration", 10**9, "a heartbeat of 1 s"),
    ],
)  # fmt: skip
def test_invalid_override_fails_configure_with_its_name(rig, monkeypatch, name, value, message):
    r = rig(**{name: value})
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "error", lambda self, text, **_: logged.append(text)
    )
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    (text,) = logged
    assert message in text
    assert name.rpartition(".")[2] in text
    assert "Traceback" not in text


def test_override_of_a_topic_that_the_node_does_not_have_is_a_warning(rig, monkeypatch):
    name = "/camera/image.subscription.depth"
    r = rig(**{name: 5, "/image.subscription.depth": 2})
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "warning", lambda self, text, **_: logged.append(text)
    )
    r.start()
    assert logged == [f"no publisher or subscription reads the parameter qos_overrides.{name}"]
