"""A colcon workspace, made and built as the README says, runs the installed node."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

for module in ("rclpy", "emotion_perception_msgs", "torch", "facenet_pytorch", "colcon_core"):
    pytest.importorskip(module)

ROOT = Path(__file__).parents[2]
PACKAGE = "emotion_perception"

pytestmark = [pytest.mark.ros, pytest.mark.models, pytest.mark.serial]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace with a copy of this repository in src, built by the README's line."""
    folder = tmp_path_factory.mktemp("ws")
    unwanted = shutil.ignore_patterns(
        ".venv", ".git", "out", "*.egg-info", "__pycache__", ".*cache"
    )
    shutil.copytree(ROOT, folder / "src" / PACKAGE, ignore=unwanted, symlinks=True)
    (line,) = re.findall(r"^python -m (colcon build .*)$", (ROOT / "README.md").read_text(), re.M)
    build = [sys.executable, "-m", *line.split()]
    environment = dict(os.environ)
    if (Path(sys.prefix) / "share" / "ament_cmake").is_dir():  # ROS comes from wheels
        environment |= {"AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
        environment["PATH"] = f"{sys.prefix}/bin:{environment['PATH']}"
        build += ["--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}"]
    done = subprocess.run(
        build, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 packages finished" in done.stdout
    return folder, environment


def shell(workspace, command, **options):
    folder, environment = workspace
    return subprocess.Popen(
        ["bash", "-c", f". install/setup.bash && exec {command}"],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_both_packages_come_from_the_workspace(workspace):
    modules = f"{PACKAGE}, {PACKAGE}_msgs"
    code = f"import {modules}; print({PACKAGE}.__file__, {PACKAGE}_msgs.__file__)"
    said, _ = shell(workspace, f'{sys.executable} -c "{code}"').communicate(timeout=60)
    assert said.count(str(workspace[0] / "install")) == 2, said


def test_launch_and_parameter_files_are_installed(workspace):
    share = workspace[0] / "install" / PACKAGE / "share" / PACKAGE
    for folder, suffix in (("launch", "*.launch.py"), ("config", "*.*")):
        here = {path.name for path in (ROOT / folder).glob(suffix)}
        assert here == {path.name for path in (share / folder).glob(suffix)}
        assert here
    (inside,) = (workspace[0] / "install" / PACKAGE).glob(f"lib/python*/site-packages/{PACKAGE}")
    for folder in ("data/clip", "data/msg", "data/narracap", "replay/report/templates"):
        here = {path.name for path in (ROOT / PACKAGE / folder).iterdir()}
        assert here == {path.name for path in (inside / folder).iterdir()}


def test_the_installed_node_starts_looks_and_ends_cleanly(workspace, ros_domain):
    workspace[1].update(os.environ)
    folder = workspace[0] / "install" / PACKAGE
    params = folder / "share" / PACKAGE / "config" / "embedded_baseline.yaml"
    node = folder / "lib" / PACKAGE / "emotion_node"
    process = shell(workspace, f"{node} --ros-args --params-file {params} -r image:=/cam")
    deadline, lines = time.monotonic() + 120, []
    while time.monotonic() < deadline and not any("subscribed to /cam" in line for line in lines):
        line = process.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
