"""Read ROS parameter files as ROS does: names of nodes with wildcards, and types of values.

Sources: rcl_yaml_param_parser and rclpy of ROS 2 Jazzy. A name may be nested and its leading slash
left out; `/*` stands for one part of a name, `/**` for any number of parts. All sections of a node
apply in the order of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from emotion_perception.core import documents
from emotion_perception.core.settings import NODE_NAME, NODE_PARAMETERS, ROS_PARAMETERS

_PARAMETERS = "ros__parameters"
_INT64 = range(-(2**63), 2**63)


def read_parameter_file(path: Path | str, node: str = "") -> dict[str, Any]:
    """Return the values for one node, by full names such as `group.name`.

    Sections of other nodes, the parameters of every ROS node and the permissions are left out.

    Args:
        path: The file.
        node: The full name of the node, such as `/robot1/emotion_node`. Empty: the only node of
            the file that is called `emotion_node`, or `/emotion_node`.

    Raises:
        ValueError: The file is not a ROS parameter file, has no section for the node, or has
            several nodes to choose from.
        OSError: The file cannot be read.
    """
    try:
        root = documents.compose_yaml(path, _RosLoader)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    sections = list(_sections(path, root, ""))
    node = f"/{node.removeprefix('/')}" if node else _default_node(path, sections)
    own = [values for name, values in sections if _matches(name, node)]
    if not own:
        raise ValueError(
            f"cannot read {path}: it has no section for the node {node}; its sections: "
            f"{', '.join(dict(sections)) or 'none'}"
        )
    try:
        values = {name: value for section in own for name, value in _flatten(section)}
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return {
        name: value
        for name, value in values.items()
        if name not in (*ROS_PARAMETERS, *NODE_PARAMETERS) and not name.startswith("qos_overrides.")
    }


def _sections(
    path: Path | str, node: yaml.Node | None, prefix: str
) -> Iterator[tuple[str, yaml.MappingNode]]:
    """Yield the name of each node in the file and its parameters, in the order of the file."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value != _PARAMETERS:
            name = f"{prefix}/{key.value}" if prefix else f"/{key.value.removeprefix('/')}"
            if "//" in name:
                raise ValueError(
                    f"cannot read {path}: section {name} has a repeated slash; remove one"
                )
            yield from _sections(path, value, name)
        elif isinstance(value, yaml.MappingNode) and prefix:
            yield prefix, value
        else:
            raise ValueError(
                f"cannot read {path}: section {prefix or '(none)'} has no `{_PARAMETERS}` with "
                "names and values"
            )


def _default_node(path: Path | str, sections: list[tuple[str, yaml.MappingNode]]) -> str:
    """Return the only node of the file with our name.

    Raises:
        ValueError: There are several.
    """
    named = [
        name for name in dict(sections) if name.split("/")[-1] == NODE_NAME and "*" not in name
    ]
    if len(named) > 1 and f"/{NODE_NAME}" not in named:
        raise ValueError(
            f"cannot choose a node of {path}: it has {', '.join(named)}; add --node {named[0]}"
        )
    return named[0] if len(named) == 1 else f"/{NODE_NAME}"


def _matches(pattern: str, node: str) -> bool:
    pattern = re.sub(r"(/\*\*)+", "/**", pattern)  # repetitions would be tried in all combinations
    parts = re.split(r"(/\*\*?)", pattern)
    wildcards = {"/*": r"/\w+", "/**": r"(/\w+)*"}
    return re.fullmatch("".join(wildcards.get(x) or re.escape(x) for x in parts), node) is not None


def _flatten(section: yaml.MappingNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.value:
        full = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _flatten(value, full + ".")
        else:
            yield full, documents.construct_yaml(value, _RosLoader)


class _RosLoader(documents.BoundedLoader):
    """Constructs values with the types that ROS gives them: `y` is a bool and `1e1` a float."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as in the base class


def _construct_int(loader: yaml.SafeLoader, node: yaml.Node) -> int | float:
    text = str(loader.construct_scalar(node))  # type: ignore[arg-type]
    digits = text.lstrip("+-")
    is_octal = re.fullmatch("0[0-7]+", digits) is not None
    value = int(digits, 8) if is_octal else int(digits, 0)
    value = -value if text.startswith("-") else value
    return value if value in _INT64 else float(value)


def _construct_float(loader: yaml.SafeLoader, node: yaml.Node) -> float | str:
    text = str(loader.construct_scalar(node))  # type: ignore[arg-type]
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    is_overflow = math.isinf(value) and "inf" not in text.lower()
    return text if is_overflow else value


def _construct_bool(loader: yaml.SafeLoader, node: yaml.Node) -> bool:
    text = str(loader.construct_scalar(node))  # type: ignore[arg-type]
    return text.lower() in ("y", "yes", "true", "on")


_TYPES = {
    "bool": (r"y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF",
             _construct_bool),
    "int": (r"[-+]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", _construct_int),
    "float": (r"[-+]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|\.?(?i:inf|nan)|(?i:infinity))",
              _construct_float),
}  # fmt: skip
for _name, (_pattern, _construct) in _TYPES.items():
    _tag = f"tag:yaml.org,2002:{_name}"
    _RosLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), None)
    _RosLoader.add_constructor(_tag, _construct)
