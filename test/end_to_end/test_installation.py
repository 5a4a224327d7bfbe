"""The documented lines and those of the Dockerfile, run in fresh environments."""

import subprocess

import pytest

cv2 = pytest.importorskip("cv2")
from support.environments import (
    ROOT,
    find_python,
    install_lines,
    instructions,
    make_workspace,
    needs_index,
    run,
    write_wheel,
)

from emotion_perception import toy_world

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.models]

PYTHONS = {"jazzy": "3.12", "humble": "3.10"}
VENDOR = {"jazzy": "2.8.0a0+34c6371d24.nv25.8", "humble": "2.8.0+nv24.6"}
"""Versions as NVIDIA gives them; torch of PyPI is another."""
VERSIONS = "from importlib.metadata import distributions as d; print(*(x.name for x in d()))"


@pytest.mark.parametrize("distro", PYTHONS)
def test_torch_of_the_vendor_survives_the_documented_lines(distro, tmp_path):
    python = find_python(PYTHONS[distro])
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / "bin"
    needs_index(programs)
    workspace = make_workspace(tmp_path / "ws")
    stub = f"__version__ = {VENDOR[distro]!r}\n"
    wheels = [
        write_wheel(tmp_path, name, VENDOR[distro], stub) for name in ("torch", "torchvision")
    ]
    run(f"pip install --no-deps {wheels[0]} {wheels[1]}", workspace, programs)

    research = "pip install -r src/emotion_perception/requirements/research.txt"
    for line in [*install_lines((ROOT / "README.md").read_text()), research]:
        if "leave out on a Jetson" not in line:
            run(line.replace("jazzy.txt", f"{distro}.txt"), workspace, programs)

    for module in ("torch", "torchvision"):
        said = run(f"python -c 'import {module}; print({module}.__version__)'", workspace, programs)
        assert said.strip() == VENDOR[distro]
    installed = set(run(f"python -c '{VERSIONS}'", workspace, programs).lower().split())
    assert {"ultralytics", "trackers", "transformers", "num2words", "colcon-core"} <= installed
    assert not [name for name in installed if name.startswith(("nvidia-", "triton"))]


@pytest.mark.parametrize("distro", PYTHONS)
def test_lines_of_the_dockerfile_make_an_environment_that_assesses_people(distro, tmp_path):
    """All RUN lines but those that need the apt repository of ROS, or what comes from it."""
    python = find_python(PYTHONS[distro])
    environment = tmp_path / "venv"
    needs_index(python.parent)
    workspace = make_workspace(tmp_path / "ws")
    lines = [
        text
        for word, text in instructions((ROOT / "docker/Dockerfile").read_text())
        if word == "RUN"
    ]
    tried = [line for line in lines if "apt-get" not in line and "/opt/ros" not in line]
    assert len(lines) - len(tried) == 2
    variables = {"DISTRO": distro, "TORCH": "pypi", "VIRTUAL_ENV": str(environment)}
    run(tried[0], workspace, python.parent, **variables)
    for line in tried[1:]:
        run(line, workspace, environment / "bin", **variables)

    drawn = toy_world.draw_image(3, 0, size=(640, 480))
    cv2.imwrite(str(tmp_path / "image.png"), drawn.image[..., ::-1])
    example = f"examples/assess_one_image.py {tmp_path}/image.png"
    said = run(
        f"python {example} --params-file config/small_world.yaml",
        ROOT, environment / "bin", PYTHONPATH=str(ROOT),
    )  # fmt: skip
    assert len(said.splitlines()) == len(drawn.people)
    installed = set(run(f"python -c '{VERSIONS}'", workspace, environment / "bin").lower().split())
    assert "docopt" not in installed
