"""What the participants of the ROS network may change, and where images go."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from emotion_perception.core.recognizer_settings import ServerAddress
from emotion_perception.core.settings import NODE_PARAMETERS, SETTINGS, Settings
from emotion_perception.core.text import printable


class Permissions:
    """The permissions that the node has at its start, for the rest of its life.

    Each participant of an open ROS network can set parameters and call the services of the
    lifecycle. Without `allow_reconfigure`, a parameter that is `start_only` keeps its start value.
    In any case, images go only to the servers in `allowed_hosts`.
    """

    def __init__(self, node: Node, refused: dict[str, str]) -> None:
        """Read the permissions, and log each attempt to change them, which ROS rejects.

        Args:
            node: The node, whose parameters are declared.
            refused: The errors of the values at start, to which those of the permissions are added.
        """
        self._node = node
        self._start = {name: node.get_parameter(name).value for name in SETTINGS}
        values: dict[str, Any] = {}
        for name, setting in NODE_PARAMETERS.items():
            try:
                values[name] = setting.validate(node.get_parameter(name).value)
            except ValueError as error:
                values[name], refused[name] = setting.default, str(error)
        self._allow_reconfigure: bool = values["allow_reconfigure"]
        self._allowed_hosts = frozenset(filter(None, map(str.lower, values["allowed_hosts"])))
        if not self._allowed_hosts:
            self._allowed_hosts = frozenset(self._start_hosts())
        if hasattr(node, "add_pre_set_parameters_callback"):  # since Iron
            node.add_pre_set_parameters_callback(self._log_attempts)

    def check(self, changed: dict[str, Any]) -> None:
        """Check the parameters that a participant of the network sets.

        Raises:
            ValueError: A parameter has to keep its start value, or names a server that is not in
                `allowed_hosts`.
        """
        for name, value in changed.items():
            if not SETTINGS[name].start_only:
                continue
            start = self._start[name]
            if not self._allow_reconfigure and (type(value), value) != (type(start), start):
                raise ValueError(
                    f"cannot set {name} = {value!r}: it keeps its start value, since it chooses "
                    "what is loaded, or where images come from or go to; start the node with the "
                    "new value, or with allow_reconfigure: true"
                )
            if SETTINGS[name].server and isinstance(value, str):
                self._check_host(name, value)

    def log_destination(self, settings: Settings) -> None:
        """Log to which server the images go, before the first one is sent.

        Raises:
            ValueError: The server is not in `allowed_hosts`.
        """
        logger = self._node.get_logger()
        values = settings.to_dict()
        own = [name for name in SETTINGS if SETTINGS[name].server and _reads(settings, name)]
        for name in own:
            url = str(values[name])
            address = self._check_host(name, url)
            logger.info(f"images are sent to the server {url} ({name})")
            if not (address.encrypted or address.is_local):
                logger.warning(
                    f"images and the key reach {address.host} unencrypted: use https in {name}, or "
                    "a network of the robot's own"
                )
        if not own:
            logger.info("images are sent to no server")

    def _check_host(self, name: str, url: str) -> ServerAddress:
        try:
            address = ServerAddress.of(url)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
        if not self._allowed_hosts & {address.host, f"{address.host}:{address.port}"}:
            allowed = ", ".join(sorted(self._allowed_hosts)) or "none"
            raise ValueError(
                f"cannot send images to {address.host}:{address.port} ({name}): the allowed hosts "
                f"are {allowed}; start the node with the host in allowed_hosts"
            )
        return address

    def _start_hosts(self) -> list[str]:
        """Return the hosts of the URLs that were given at the start."""
        hosts = []
        for name, setting in SETTINGS.items():
            if setting.server:
                try:
                    hosts.append(ServerAddress.of(self._start[name]).host)
                except ValueError:
                    continue  # configure reports it
        return hosts

    def _log_attempts(self, requested: list[Parameter]) -> list[Parameter]:
        for name in [
            parameter.name for parameter in requested if parameter.name in NODE_PARAMETERS
        ]:
            self._node.get_logger().warning(f"parameter refused: {name} is read-only")
        return requested


def refusal(node: Node, error: ValueError) -> str:
    """Log why parameters are not set, and return it for the one who sets them."""
    reason = printable(error)
    node.get_logger().warning(f"parameter refused: {reason}")
    return reason


def _reads(settings: Settings, name: str) -> bool:
    readers = SETTINGS[name].read_by
    return not readers or settings.recognizer.name in readers
