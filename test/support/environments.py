"""Virtual environments of other Pythons, and wheels that stand in for those of a vendor."""

import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def find_python(version):
    """Return the interpreter of a version such as 3.12, or skip the test."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (
        shutil.which(f"python{version}"),
        *pyenv.glob(f"{version}.*/bin/python{version}"),
    ):
        # A shim of pyenv exists for each version, but not all of them run.
        if candidate and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0:
            return Path(candidate)
    pytest.skip(f"there is no Python {version}")


def make_workspace(folder):
    """Make a workspace whose source folder is this repository."""
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "emotion_perception").symlink_to(ROOT)
    return folder


def run(line, folder, bin_folder, **variables):
    """Run a line of bash with the programs of `bin_folder` first; return its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def needs_index(bin_folder):
    """Skip the test where pip cannot reach an index."""
    probe = [bin_folder / "pip", "install", "--dry-run", "--no-deps", "--retries=0", "mdurl"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"pip cannot reach a package index: {done.stderr.strip().splitlines()[-1]}")


def write_wheel(folder, name, version, code):
    """Write a wheel with the one module `name`, and return its path."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    records = []
    for path, text in files.items():
        digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        records.append(f"{path},sha256={digest},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(records) + f"{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def install_lines(page):
    """Return the lines of a page's first block of commands that call pip."""
    block = next(b for b in re.findall(r"```bash\n(.*?)```", page, re.S) if "python3 -m venv" in b)
    return [line for line in block.splitlines() if line.startswith("pip install")]


def instructions(dockerfile):
    """Return the instructions of a Dockerfile as pairs of a keyword and its text in one line."""
    text = "".join(line for line in dockerfile.splitlines(True) if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line]
