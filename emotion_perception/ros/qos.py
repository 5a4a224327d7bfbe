"""Let parameters override the QoS of each publisher and subscription, and check their values.

The names are those of ROS: `qos_overrides.<topic>.<publisher|subscription>.<policy>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

PREFIX = "qos_overrides."
_NAMES = {
    "history": HistoryPolicy,
    "reliability": ReliabilityPolicy,
    "durability": DurabilityPolicy,
    "liveliness": LivelinessPolicy,
}
_TIMES = ("deadline", "lifespan", "liveliness_lease_duration")
_MAX_DEPTH = 100_000
_POLICIES = (*_NAMES, "depth", *_TIMES)
_FORM = re.compile(r"qos_overrides\.(/[^.]+)\.(publisher|subscription)\.(\w+)")


def overridable(check: Callable[[QoSProfile], None] = lambda profile: None) -> QoSOverridingOptions:
    """Return the options with which every policy can be overridden.

    Args:
        check: Raises ValueError for a profile that the node cannot promise.
    """

    def accepted(profile: QoSProfile) -> SetParametersResult:
        check(profile)
        return SetParametersResult(successful=True)

    kinds = [QoSPolicyKind[name.upper()] for name in _POLICIES]
    return QoSOverridingOptions(kinds, callback=accepted)


def take_invalid(overrides: dict[str, Any]) -> dict[str, str]:
    """Remove invalid values from the parameters given at start.

    rclpy raises errors for them that do not name the parameter, even in the constructor.

    Returns:
        The error of each by parameter.
    """
    errors = {}
    for name in [name for name in overrides if name.startswith(PREFIX)]:
        if error := _error(name, overrides[name].value):
            errors[name] = error
            del overrides[name]
    return errors


def unused(node: Node) -> list[str]:
    """Return the overrides of topics that the node does not have."""
    given = [name for name in node._parameter_overrides if name.startswith(PREFIX)]
    return [name for name in given if not node.has_parameter(name)]


def _error(name: str, value: Any) -> str:
    match = _FORM.fullmatch(name)
    policy = match[3] if match else ""
    if policy in _NAMES:
        names = [member.lower() for member in _NAMES[policy].__members__ if member != "UNKNOWN"]
        if value not in names:
            return f"{name} = {value!r} is not allowed: one of {', '.join(names)}"
    elif policy == "depth":
        if type(value) is not int or not 1 <= value <= _MAX_DEPTH:
            return f"{name} = {value!r} is not allowed: 1 to {_MAX_DEPTH} messages"
    elif policy in _TIMES:
        if type(value) is not int or value < 0:
            return f"{name} = {value!r} is not allowed: nanoseconds, at least 0"
    else:
        return (
            f"there is no parameter {name!r}: its form is "
            f"{PREFIX}<topic>.<publisher|subscription>.<policy>, with the full name of the topic "
            f"and one of {', '.join(_POLICIES)}"
        )
    return ""
