"""The bond with a lifecycle manager such as Nav2's: each learns when the other has died."""

from __future__ import annotations

from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node

_TOPIC = "bond"  # as Nav2's manager and nodes have it
_PERIOD_S = 0.1  # between heartbeats, as of Nav2's nodes
_LAST_MESSAGE = Duration(seconds=0.2)  # to arrive before its publisher ends


class ManagerBond:
    """A bond that exists while the node is active; `bondpy` is loaded only if it is asked for."""

    def __init__(self, node: Node) -> None:
        """Form no bond yet."""
        self._node = node
        self._bond: Any = None
        self.state = ""
        """Empty without a bond, else: waiting, formed or broken."""

    def check(self, timeout_s: float) -> None:
        """Check that a bond can be formed, if the timeout is not 0.

        Raises:
            ValueError: `bondpy` is not installed.
        """
        if timeout_s:
            _load()

    def form(self, timeout_s: float) -> None:
        """Wait for the manager in the background, unless the timeout is 0.

        Args:
            timeout_s: Seconds without a heartbeat of the manager after which the bond is broken.
        """
        if not timeout_s:
            return
        self.state = "waiting"
        # The name is that in the manager's list of nodes.
        self._bond = _load().Bond(
            self._node, _TOPIC, self._node.get_name(), self._on_broken, self._on_formed
        )
        self._bond.set_heartbeat_period(_PERIOD_S)
        self._bond.set_heartbeat_timeout(timeout_s)
        self._bond.start()

    def end(self) -> None:
        """Tell the manager that the node leaves, if there is a bond."""
        if self._bond is not None:
            bond, self._bond = self._bond, None
            if self._node.context.ok():  # otherwise it cannot be told any more
                bond.break_bond()
                bond.pub.wait_for_all_acked(_LAST_MESSAGE)
                bond.shutdown()
                # bondpy (4.1) destroys both without the node's knowledge, whose executor would then
                # raise InvalidHandle.
                self._node.destroy_subscription(bond.sub)
                self._node.destroy_publisher(bond.pub)
        self.state = ""

    # Called by threads of bondpy: they only note the state, which /diagnostics reports.

    def _on_formed(self) -> None:
        if self._bond is not None:
            self.state = "formed"

    def _on_broken(self) -> None:
        if self._bond is not None:
            self.state = "broken"


def _load() -> Any:
    try:
        from bondpy import bondpy
    except ImportError as error:
        raise ValueError(
            "bond_timeout needs the package bondpy, which is not installed; run `sudo apt install "
            "ros-$ROS_DISTRO-bondpy`, or set bond_timeout to 0"
        ) from error
    return bondpy
