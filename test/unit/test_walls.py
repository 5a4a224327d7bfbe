"""Check the imports of each room, the error tree and the broad excepts."""

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from emotion_perception.core.errors import EmotionPerceptionError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "emotion_perception"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

MODULES = {
    "emotion_perception." + name[:-3].replace("/", ".").removesuffix(".__init__"): name
    for name in FILES
}

ROOMS = (
    "core", "io", "perception", "recognizers", "evaluation", "replay", "live", "training",
    "toy_world", "benchmarks", "client", "ros", "installation", "cli",
)  # fmt: skip
"""From low to high; a room imports itself and lower ones only."""
SIDE_BY_SIDE = {("toy_world", "benchmarks"), ("client", "ros")}

ROS = {
    "ament_index_python", "bondpy", "builtin_interfaces", "cv_bridge", "diagnostic_msgs",
    "emotion_perception_msgs", "geometry_msgs", "hri_msgs", "lifecycle_msgs", "rcl_interfaces",
    "rclpy", "rosgraph_msgs", "sensor_msgs", "std_msgs", "std_srvs", "vision_msgs",
    "visualization_msgs",
}  # fmt: skip
MODELS = {
    "accelerate", "facenet_pytorch", "keras", "peft", "torch", "torchao", "torchvision",
    "transformers", "ultralytics",
}  # fmt: skip
MODEL_ROOMS = (
    "perception/detection", "recognizers/", "training/", "toy_world/training/", "benchmarks/",
    "testing/",
)  # fmt: skip
TEST_ROOM = "testing"
MAY_IMPORT_TEST_ROOM = (
    "benchmarks/",
    "toy_world/training/",
    "cli/bench.py",
)  # they build checkpoints, too
# These may import models or ROS inside a function, so that the rest of them runs without.
LAZY_MODELS = ("perception/devices.py", "installation/", "cli/")
LAZY_ROS = ("installation/", "cli/")


@functools.cache
def imports(path):
    """Each imported module, with whether the import stands inside a function."""
    return tuple(_imports(path))


def _imports(path):
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
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module or "" for name in full]
        else:
            continue
        for name in names:
            yield name, id(node) in inside


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "emotion_perception" else None


@pytest.mark.parametrize("name", [n for n in FILES if "/" in n])
def test_each_room_imports_lower_rooms_only(name):
    room = name.split("/")[0]
    if room == TEST_ROOM:
        return
    for module, _ in imports(FILES[name]):
        other = room_of(module)
        if other is None or other == "__version__":
            continue
        if other == TEST_ROOM:
            assert name.startswith(MAY_IMPORT_TEST_ROOM), f"{name} imports {module}"
            continue
        lower = ROOMS.index(other) <= ROOMS.index(room)
        assert lower or {room, other} in map(set, SIDE_BY_SIDE), f"{name} imports {module}"


def test_no_import_cycle():
    """Modules that import each other at load time form no cycle."""
    edges = {
        module: {m for m, lazy in imports(FILES[name]) if not lazy and m in MODULES and m != module}
        for module, name in MODULES.items()
    }
    finished, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in finished:
            return
        path.append(module)
        for other in sorted(edges[module]):
            visit(other)
        path.pop()
        finished.add(module)

    for module in sorted(edges):
        visit(module)


@pytest.mark.parametrize("name", FILES)
def test_only_ros_and_client_import_ros(name):
    for module, lazy in imports(FILES[name]):
        if module.split(".")[0] in ROS:
            allowed = name.startswith(("ros/", "client/")) or (lazy and name.startswith(LAZY_ROS))
            assert allowed, f"{name} imports {module}"


@pytest.mark.parametrize("name", FILES)
def test_only_model_rooms_import_models(name):
    for module, lazy in imports(FILES[name]):
        if module.split(".")[0] in MODELS:
            allowed = name.startswith(MODEL_ROOMS) or (lazy and name.startswith(LAZY_MODELS))
            assert allowed, f"{name} imports {module}"


@pytest.mark.parametrize("name", FILES)
def test_only_io_imports_pyav_and_only_inside_functions(name):
    for module, lazy in imports(FILES[name]):
        if module.split(".")[0] == "av":
            assert name.startswith("io/"), f"{name} imports {module}"
            assert lazy, f"{name} imports {module} at load time"


HEAVY = {
    "av", "cv2", "polars", "requests", "scipy", "supervision", "torch", "trackers", "transformers",
}  # fmt: skip


@pytest.mark.parametrize(
    "module", ["recognizers.chance", "recognizers.registry", "client.emotion_client"]
)
def test_light_module_loads_no_heavy_library(module):
    """In a fresh interpreter, since this one has loaded most of them."""
    if module == "client.emotion_client":
        pytest.importorskip("emotion_perception_msgs")
    program = f"import emotion_perception.{module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}


def test_each_error_class_descends_from_the_root_error():
    classes = [
        (name, node.name)
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith(("Error", "Exception")) for base in node.bases)
    ]
    assert len(classes) >= 6
    for name, error in classes:
        if (name, error) != ("core/errors.py", "EmotionPerceptionError"):
            module = importlib.import_module(f"emotion_perception.{name[:-3].replace('/', '.')}")
            assert issubclass(getattr(module, error), EmotionPerceptionError), f"{name}: {error}"


def test_the_checks_see_eager_and_lazy_imports():
    assert ("rclpy", False) in set(imports(FILES["ros/node.py"]))
    assert ("torch", True) in set(imports(FILES["perception/devices.py"]))


def test_only_what_runs_unattended_and_the_text_of_an_error_catch_every_exception():
    broad = []
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            caught = getattr(node, "type", None)
            is_broad = caught is None or getattr(caught, "id", "") in ("Exception", "BaseException")
            reraised = isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise)
            if isinstance(node, ast.ExceptHandler) and is_broad and not reraised:
                broad.append(name)
    process = {
        *("ros/lifecycle.py", "ros/node.py", "ros/main.py", "ros/worker.py"),
        "live/session.py",
    }
    assert set(broad) == process | {"core/errors.py"}


def test_remote_code_is_never_trusted():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
