"""The settings as ROS parameters: declared from `settings.SETTINGS`, each once."""

from __future__ import annotations

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from emotion_perception.core.schema import Setting
from emotion_perception.core.settings import RENAMED, ROS_PARAMETERS, SETTINGS, hint


def declare(node: Node) -> dict[str, str]:
    """Declare a parameter for each setting, with description, unit and range.

    A value that is given at start and not allowed does not end the node: the default is declared in
    its place. The former name of a renamed parameter is refused, any other
    unknown name is warned about.

    Returns:
        What is wrong with the refused values, by parameter. Configuring should fail on them.
    """
    refused: dict[str, str] = {}
    given = node._parameter_overrides
    for name, setting in SETTINGS.items():
        try:
            node.declare_parameter(name, setting.default, _descriptor(setting))
        except (InvalidParameterTypeException, InvalidParameterValueException):
            # ROS is strict: it takes no whole number for a float, either.
            try:
                value = setting.validate(given[name].value)
            except ValueError as error:
                value, refused[name] = setting.default, str(error)
            node.declare_parameter(name, value, _descriptor(setting), ignore_override=True)
    for name in given:
        known = name in SETTINGS or name in ROS_PARAMETERS or name.startswith("qos_overrides.")
        complaint = f"there is no parameter {name!r}{hint(name, given[name].value)}"
        if name in RENAMED:
            refused[name] = complaint
        elif not known:
            node.get_logger().warning(complaint)
    return refused


def _descriptor(setting: Setting) -> ParameterDescriptor:
    unit = f" [{setting.unit}]" if setting.unit else ""
    descriptor = ParameterDescriptor(
        description=setting.description + unit, additional_constraints=setting.constraint
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
