"""The walls of docs/architecture.md: who may import what, and who may catch everything."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "emotion_perception"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

ROS = {
    "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs",
    "emotion_perception_msgs", "geometry_msgs", "lifecycle_msgs", "rcl_interfaces", "rclpy",
    "rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs", "visualization_msgs",
}  # fmt: skip
MODELS = {
    "accelerate", "facenet_pytorch", "keras", "peft", "torch", "torchvision", "transformers",
    "ultralytics",
}  # fmt: skip
MODEL_ROOMS = ("detection.py", "recognizers/", "training/")
# These may import models or ROS inside a function, so that their other halves run without.
LAZY_MODELS = ("cli/", "devices.py")
LAZY_ROS = ("cli/",)


def imports(path):
    """Top-level names of what a file imports, with whether that happens inside a function."""
    tree = ast.parse(path.read_text())
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        for name in names:
            yield name, id(node) in inside


@pytest.mark.parametrize("name", FILES)
def test_ros_is_known_under_ros_only(name):
    for module, lazy in imports(FILES[name]):
        ours = module.startswith("emotion_perception.ros")
        if module.split(".")[0] in ROS or ours:
            allowed = name.startswith("ros/") or (lazy and name.startswith(LAZY_ROS))
            assert allowed, f"{name} imports {module}"


@pytest.mark.parametrize("name", FILES)
def test_models_are_known_where_models_live_only(name):
    for module, lazy in imports(FILES[name]):
        if module.split(".")[0] in MODELS:
            allowed = name.startswith(MODEL_ROOMS) or (lazy and name.startswith(LAZY_MODELS))
            assert allowed, f"{name} imports {module}"


def test_the_walls_would_notice():
    found = dict(imports(FILES["ros/node.py"]))
    assert "rclpy" in found
    assert ("torch", True) in set(imports(FILES["devices.py"]))


def test_everything_is_caught_at_the_edge_only():
    broad = []
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            caught = getattr(node, "type", None)
            is_broad = caught is None or getattr(caught, "id", "") in ("Exception", "BaseException")
            reraised = isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise)
            if isinstance(node, ast.ExceptHandler) and is_broad and not reraised:
                broad.append(name)
    assert set(broad) == {"ros/lifecycle.py", "ros/node.py"}


def test_no_model_code_from_elsewhere_is_trusted():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
