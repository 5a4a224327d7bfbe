"""ROS agrees with the tables that the unit tests of parameter files use."""

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.node import Node
from support.parameter_files import NAMES, NESTED, NODES, ORDERS, VALUES

pytestmark = pytest.mark.ros


@pytest.fixture
def ros_values(tmp_path, ros_domain):
    """Return a function from a file and the full name of a node to its parameters in ROS."""

    def read(text, name):
        path = tmp_path / "robot.yaml"
        path.write_text(text)
        namespace, _, base = name.rpartition("/")
        context = rclpy.Context()
        rclpy.init(
            args=["--ros-args", "--params-file", str(path)], context=context, domain_id=ros_domain
        )
        try:
            node = Node(base, namespace=namespace or "/", context=context,
                        automatically_declare_parameters_from_overrides=True)  # fmt: skip
            names = [name for name in node._parameters if name[0] in "ab"]
            values = {name: node.get_parameter(name).value for name in names}
            node.destroy_node()
            return values
        finally:
            rclpy.try_shutdown(context=context)

    return read


def test_sections_apply_as_in_ros(ros_values):
    for name, expected in NAMES.items():
        text = f'"{name}": {{ros__parameters: {{a: 1}}}}\n'
        assert tuple(ros_values(text, node) == {"a": 1} for node in NODES) == expected, name
    for text, expected in NESTED.items():
        assert tuple(ros_values(text, node) == {"a": 1} for node in NODES) == expected, text
    for text, expected in ORDERS.items():
        assert ros_values(text, "/emotion_node") == expected, text


def test_values_have_the_types_of_ros(ros_values):
    lines = [f"    a{number}: {text}\n" for number, text in enumerate(VALUES)]
    values = ros_values("/**:\n  ros__parameters:\n" + "".join(lines), "/emotion_node")
    for number, (text, expected) in enumerate(VALUES.items()):
        value = values[f"a{number}"]
        value = list(value) if isinstance(expected, list) else value
        assert (type(value), value) == (type(expected), expected), text
