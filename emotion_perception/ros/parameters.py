"""The settings as ROS parameters: declared from `settings.KNOBS`, each once."""

from __future__ import annotations

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from emotion_perception.core.settings import KNOBS, OF_ROS, Knob, did_you_mean


def declare(node: Node) -> dict[str, str]:
    """Declare a parameter for each knob, with description, unit and range.

    A value that is given at start and not allowed does not end the node: the default is declared in
    its place. A name that does not exist is warned about.

    Returns:
        What is wrong with the refused values, by parameter. Configuring should fail on them.
    """
    refused: dict[str, str] = {}
    given = node._parameter_overrides
    for name, knob in KNOBS.items():
        try:
            node.declare_parameter(name, knob.default, _descriptor(knob))
        except (InvalidParameterTypeException, InvalidParameterValueException):
            # ROS is strict: it takes no whole number for a float, either.
            try:
                value = knob.checked(given[name].value)
            except ValueError as error:
                value, refused[name] = knob.default, str(error)
            node.declare_parameter(name, value, _descriptor(knob), ignore_override=True)
    for name in given:
        if name not in KNOBS and name not in OF_ROS and not name.startswith("qos_overrides."):
            node.get_logger().warning(f"there is no parameter {name!r}{did_you_mean(name)}")
    return refused


def _descriptor(knob: Knob) -> ParameterDescriptor:
    unit = f" [{knob.unit}]" if knob.unit else ""
    descriptor = ParameterDescriptor(
        description=knob.description + unit, additional_constraints=knob.constraint
    )
    if knob.minimum is not None and knob.maximum is not None:
        if knob.type is float:
            limits = FloatingPointRange(from_value=knob.minimum, to_value=knob.maximum)
            descriptor.floating_point_range = [limits]
        else:
            whole = IntegerRange(from_value=int(knob.minimum), to_value=int(knob.maximum), step=1)
            descriptor.integer_range = [whole]
    return descriptor
