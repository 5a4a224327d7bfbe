"""Declare the settings as ROS parameters, from `settings.SETTINGS`."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from emotion_perception.core.schema import Setting
from emotion_perception.core.settings import (
    NODE_PARAMETERS,
    RENAMED,
    ROS_PARAMETERS,
    SETTINGS,
    Settings,
    hint,
)
from emotion_perception.ros import qos


def declare(node: Node) -> dict[str, str]:
    """Declare a parameter for each setting, with description, unit and range.

    An invalid value given at start does not end the node: the default is declared in its place. The
    former name of a renamed parameter counts as invalid; another unknown name is a warning.

    Returns:
        The error of each invalid value by parameter; configure should fail with them.
    """
    overrides = node._parameter_overrides
    errors = qos.take_invalid(overrides)
    for name, setting in (SETTINGS | NODE_PARAMETERS).items():
        default: Any = setting.default
        is_list = isinstance(default, tuple)
        if is_list:
            default = [""]  # ROS takes an empty list for a list of bytes, and `[]` for no value
        no_value = is_list and name in overrides and overrides[name].value is None
        try:
            node.declare_parameter(name, default, _descriptor(setting), ignore_override=no_value)
        except (InvalidParameterTypeException, InvalidParameterValueException):
            # ROS also rejects an integer for a float.
            try:
                value = setting.validate(overrides[name].value)
            except ValueError as error:
                value, errors[name] = default, str(error)
            node.declare_parameter(name, value, _descriptor(setting), ignore_override=True)
    for name in overrides:
        known = name in (*SETTINGS, *NODE_PARAMETERS, *ROS_PARAMETERS)
        known = known or name.startswith(qos.PREFIX)
        complaint = f"there is no parameter {name!r}{hint(name, overrides[name].value)}"
        if name in RENAMED:
            errors[name] = complaint
        elif not known:
            node.get_logger().warning(complaint)
    return errors


def with_changes(settings: Settings, changed: dict[str, Any], configured: bool) -> Settings:
    """Return the settings with the changed live parameters.

    Raises:
        ValueError: A value is not valid, or the node is configured and a parameter is not live.
    """
    frozen = [name for name in changed if configured and not SETTINGS[name].live]
    if frozen:
        raise ValueError(
            f"cannot set {', '.join(frozen)} now: it takes effect at configure; deactivate and "
            "clean up first"
        )
    valid = {name: SETTINGS[name].validate(value) for name, value in changed.items()}
    live = {name: value for name, value in valid.items() if SETTINGS[name].live}
    return Settings.from_dict({**settings.to_dict(), **live})


def _descriptor(setting: Setting) -> ParameterDescriptor:
    unit = f" [{setting.unit}]" if setting.unit else ""
    descriptor = ParameterDescriptor(
        description=setting.description + unit,
        additional_constraints=setting.constraint,
        read_only=setting.read_only,
    )
    if setting.minimum is not None and setting.maximum is not None:
        if setting.type is float:
            limits = FloatingPointRange(from_value=setting.minimum, to_value=setting.maximum)
            descriptor.floating_point_range = [limits]
        else:
            whole = IntegerRange(
                from_value=int(setting.minimum), to_value=int(setting.maximum), step=1
            )
            descriptor.integer_range = [whole]
    return descriptor
