"""The bond with a lifecycle manager, with a stand-in for bondpy, which is not installed here."""

import sys
from types import ModuleType

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("emotion_perception_msgs")

from lifecycle_msgs.msg import State, Transition
from std_msgs.msg import String

from emotion_perception.ros.health import OK, WARN

pytestmark = [pytest.mark.ros, pytest.mark.serial]


class StandInBond:
    """Records what the node does with the class of the same place in bondpy 4.1.

    Like that one it destroys what it created on the node without telling the node.
    """

    def __init__(self, node, topic, bond_id, on_broken=None, on_formed=None):
        self.calls = [(topic, bond_id)]
        self.broken, self.formed = on_broken, on_formed
        self.pub = node.create_publisher(String, topic, 1)
        self.sub = node.create_subscription(String, topic, print, 1)
        StandInBond.made.append(self)

    def shutdown(self):
        self.calls.append(("shutdown",))
        self.sub.destroy()
        self.pub.destroy()

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.fixture
def bonds(monkeypatch):
    package, module = ModuleType("bondpy"), ModuleType("bondpy.bondpy")
    StandInBond.made = []
    module.Bond, package.bondpy = StandInBond, module
    monkeypatch.setitem(sys.modules, "bondpy", package)
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", module)
    return StandInBond.made


@pytest.fixture
def rig(rig):
    return lambda **parameters: rig(parameters=parameters)


def test_bond_lasts_from_activation_to_deactivation_and_its_break_is_reported(rig, bonds):
    r = rig(bond_timeout=4.0)
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert not bonds
    assert r.change(Transition.TRANSITION_ACTIVATE)
    (bond,) = bonds
    assert bond.calls == [
        ("bond", "emotion_node"), ("set_heartbeat_period", 0.1), ("set_heartbeat_timeout", 4.0),
        ("start",),
    ]  # fmt: skip
    bond.formed()
    r.until(lambda: r.findings.get("lifecycle") == (OK, "active"))
    bond.broken()
    message = "active; the bond with the lifecycle manager is broken"
    r.until(lambda: r.findings["lifecycle"] == (WARN, message))
    assert r.change(Transition.TRANSITION_DEACTIVATE)
    assert bond.calls[-2:] == [("break_bond",), ("shutdown",)]
    r.until(lambda: r.findings["lifecycle"] == (OK, "inactive"))
    assert r.change(Transition.TRANSITION_ACTIVATE)
    assert len(bonds) == 2


def test_bond_that_cannot_be_formed_leaves_the_node_inactive(rig, bonds, monkeypatch):
    def fail(self):
        raise RuntimeError("no thread can be started")

    monkeypatch.setattr(StandInBond, "start", fail, raising=False)
    r = rig(bond_timeout=4.0)
    assert r.change(Transition.TRANSITION_CONFIGURE)
    assert not r.change(Transition.TRANSITION_ACTIVATE)
    assert r.state() == State.PRIMARY_STATE_INACTIVE
    assert bonds[0].calls[-1] == ("shutdown",)
    r.until(lambda: r.camera.get_subscription_count() == 0)


def test_no_bond_is_formed_by_default(rig, bonds):
    rig().start()
    assert not bonds


def test_bond_without_bondpy_fails_configure_with_the_package_to_install(rig, monkeypatch):
    monkeypatch.setitem(sys.modules, "bondpy", None)
    r = rig(bond_timeout=4.0)
    logged = []
    monkeypatch.setattr(
        type(r.node.get_logger()), "error", lambda self, text, **_: logged.append(text)
    )
    assert not r.change(Transition.TRANSITION_CONFIGURE)
    assert "sudo apt install ros-$ROS_DISTRO-bondpy" in logged[0]
