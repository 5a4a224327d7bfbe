"""The examples run as their docstrings say."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("ultralytics")
cv2 = pytest.importorskip("cv2")

from emotion_perception import toy_world
from emotion_perception.cli.main import main

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[2]


def run(example, *arguments):
    command = [sys.executable, f"examples/{example}.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_one_image_is_assessed(tmp_path):
    drawn = toy_world.draw_image(3, 0, size=(640, 480))
    cv2.imwrite(str(tmp_path / "image.png"), drawn.image[..., ::-1])
    lines = run(
        "assess_one_image", tmp_path / "image.png", "--params-file", "config/small_world.yaml"
    )
    assert len(lines) == len(drawn.people)
    assert all(line.startswith("p0000") for line in lines)


def test_own_recognizer_runs_through_the_pipeline():
    lines = run("own_recognizer")
    assert len(lines) == 4
    assert any("ASSESSED engagement" in line for line in lines)


def test_estimates_are_read_from_a_bag(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    toy_world.write_bag(tmp_path / "clip", toy_world.draw_clip(8, 2.0, size=(320, 240), people=2))
    out = ["--params-file", "config/small_world.yaml", "--out", str(tmp_path / "out")]
    assert main(["replay", str(tmp_path / "clip"), *out]) == 0
    lines = run("read_bag", tmp_path / "out" / "bag")
    assert lines
    assert all(" p0000" in line for line in lines)
