"""Parameter files are read as ROS reads them."""

import math

import pytest
from support.parameter_files import NAMES, NESTED, NODES, ORDERS, VALUES

from emotion_perception.core.parameter_file import read_parameter_file


@pytest.fixture
def read(tmp_path):
    def read(text, node="/emotion_node"):
        path = tmp_path / "robot.yaml"
        path.write_text(text)
        return read_parameter_file(path, node)

    return read


def applies(read, text, node):
    try:
        return read(text, node) == {"a": 1}
    except ValueError:
        with pytest.raises(ValueError, match=f"it has no section for the node {node}"):
            read(text, node)
        return False


@pytest.mark.parametrize("name", NAMES)
def test_section_applies_to_the_nodes_of_its_name(read, name):
    text = f'"{name}": {{ros__parameters: {{a: 1}}}}\n'
    assert tuple(applies(read, text, node) for node in NODES) == NAMES[name]


@pytest.mark.parametrize("text", NESTED)
def test_nested_names_are_joined(read, text):
    assert tuple(applies(read, text, node) for node in NODES) == NESTED[text]


@pytest.mark.parametrize("text", ORDERS)
def test_later_sections_override_earlier_ones(read, text):
    assert read(text) == ORDERS[text]


@pytest.mark.parametrize("text", VALUES)
def test_value_has_the_type_of_ros(read, text):
    value = read(f"/**:\n  ros__parameters:\n    a: {text}\n")["a"]
    assert type(value) is type(VALUES[text])
    assert value == VALUES[text]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: &a [*a]\n", "line 1: an alias is not allowed"),
        ("[" * 5000, "more than 64 levels deep"),
        ("/**: {ros__parameters: {[a]: 1}}", "a key is not text"),
        (f"/**: {{ros__parameters: {{a: 1{'0' * 400}}}}}", "too long"),
        (f"/**: {{ros__parameters: {{a: 1{'0' * 390}}}}}", "int too large"),
        ("/**: {ros__parameters: {a: !!bool x, b: !!int x}}", "invalid literal"),
    ],
    ids=lambda text: text[:20],
)
def test_file_outside_the_bounds_is_one_reason(read, text, reason):
    with pytest.raises(ValueError, match=f"cannot read .*robot.yaml: .*{reason}"):
        read(text)


def test_name_of_a_section_is_no_regular_expression(read):
    text = "/**: {ros__parameters: {a: 1}}\n"
    for name in ("/(((", "/emotion_nod.", "/**" * 200 + "/x", "/(\\w+\\w+)+x"):
        assert read(f"'{name}': {{ros__parameters: {{a: 2}}}}\n{text}") == {"a": 1}


@pytest.mark.parametrize("text", [".nan", ".NaN", "nan"])
def test_nan_is_a_number(read, text):
    assert math.isnan(read(f"/**: {{ros__parameters: {{a: {text}}}}}\n")["a"])


TWO_ROBOTS = (
    "/robot1/emotion_node: {ros__parameters: {max_rate: 5}}\n"
    "/robot2/emotion_node: {ros__parameters: {max_rate: 7}}\n"
)


def test_node_of_two_robots_has_to_be_chosen(read):
    with pytest.raises(ValueError, match="it has /robot1/emotion_node, /robot2/emotion_node; add"):
        read(TWO_ROBOTS, "")
    assert read(TWO_ROBOTS, "/robot2/emotion_node") == {"max_rate": 7}
    assert read(TWO_ROBOTS, "robot1/emotion_node") == {"max_rate": 5}


def test_only_node_of_the_file_is_the_default(read):
    text = (
        "camera: {ros__parameters: {rate: 5}}\n"
        "/**: {ros__parameters: {use_sim_time: true, max_rate: 5.0}}\n"
        "/front/emotion_node: {ros__parameters: {detector: {name: face}}}\n"
    )
    assert read(text, "") == {"max_rate": 5.0, "detector.name": "face"}
    assert read(text, "/emotion_node") == {"max_rate": 5.0}
    assert read(TWO_ROBOTS + "emotion_node: {ros__parameters: {max_rate: 9}}\n", "") == {
        "max_rate": 9
    }


def test_invalid_parameter_file_raises_an_error_with_its_path(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("max_rate: 5\n")
    with pytest.raises(
        ValueError,
        match="it has no section for the node /emotion_node; its sections: none",
    ):
        read_parameter_file(path)
    path.write_text("/a:\n  /emotion_node: {ros__parameters: {max_rate: 5}}\n")
    with pytest.raises(ValueError, match="section /a//emotion_node has a repeated slash"):
        read_parameter_file(path)
    path.write_text("/**:\n  ros__parameters: 5\n")
    with pytest.raises(ValueError, match="has no `ros__parameters` with names and values"):
        read_parameter_file(path)
    path.write_text("a: [1\n")
    with pytest.raises(ValueError, match="wrong.yaml: it is not YAML"):
        read_parameter_file(path)
