"""Build stand-ins for message packages that need not be installed, for processes of tests only."""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

FOLDER = Path(__file__).with_name("interfaces")
PACKAGES = {path.parent for path in FOLDER.glob("*/package.xml")}
_ROS_PREFIX = "AMENT_PREFIX_PATH", "CMAKE_PREFIX_PATH"


def variables(cache):
    """Return the variables of the environment of a process that has all of `interfaces/`.

    The packages that are not installed are built at the first call, which takes about half a
    minute, and kept by their content.

    Args:
        cache: A folder in which the build is kept.
    """
    missing = sorted(p for p in PACKAGES if importlib.util.find_spec(p.name) is None)
    if not missing:
        return {}
    prefix = _built(missing, cache)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = {
        "PYTHONPATH": prefix / "lib" / python / "site-packages",
        "LD_LIBRARY_PATH": prefix / "lib",
        "AMENT_PREFIX_PATH": prefix,
    }
    return {
        name: os.pathsep.join(filter(None, (str(path), os.environ.get(name))))
        for name, path in paths.items()
    }


def _built(packages, cache):
    """Return the prefix with the built packages."""
    prefix = cache / _key(packages)
    done = prefix / "built"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{prefix}.lock"):
        if not done.exists():
            shutil.rmtree(prefix, ignore_errors=True)
            _build(packages, prefix)
            shutil.rmtree(prefix / "build")
            done.touch()
    return prefix


def _key(packages):
    """Return a name that changes with the sources, the Python and the ROS that they are built with.

    The middleware loads the built libraries, so a new one needs a new build.
    """
    content = hashlib.sha256(f"{platform.python_version()} {sys.prefix}".encode())
    for path in sorted(p for package in packages for p in package.rglob("*") if p.is_file()):
        content.update(path.relative_to(FOLDER).as_posix().encode() + path.read_bytes())
    rclpy = importlib.util.find_spec("rclpy").origin
    content.update(f"{rclpy} {Path(rclpy).stat().st_mtime_ns}".encode())
    return content.hexdigest()[:16]


def _build(packages, prefix):
    ros = {name: os.environ.get(name) or sys.prefix for name in _ROS_PREFIX}
    command = [
        sys.executable, "-m", "colcon", "--log-base", str(prefix / "build" / "log"), "build",
        "--base-paths", *map(str, packages), "--merge-install", "--install-base", str(prefix),
        "--build-base", str(prefix / "build"), "--cmake-args",
        f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF", "-Wno-unused-cli",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=os.environ | ros, capture_output=True, text=True, cwd=prefix.parent
    )
    if done.returncode:
        shutil.rmtree(prefix, ignore_errors=True)
        raise RuntimeError(f"cannot build the interfaces of the tests:\n{done.stdout}{done.stderr}")
