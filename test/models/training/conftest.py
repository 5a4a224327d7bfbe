"""A small data set and small checkpoints with random weights, to be trained."""

import csv

import pytest

from emotion_perception import toy_world
from emotion_perception.evaluation.datasets import emotic


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("emotic")
    toy_world.write_emotic(
        root, {"train": (1, 4), "val": (2, 3)}, size=(96, 96), people=(1, 2), part="all"
    )
    return root


@pytest.fixture(scope="session")
def captions(root):
    file = root / "captions.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["key", "caption"])
        for split in ("train", "val"):
            for i, person in enumerate(emotic.load(root, split).people):
                writer.writerow([person.key, f"A person, number {i}, who is happy."])
    return file


@pytest.fixture(scope="session")
def smolvlm(build_once):
    from emotion_perception.testing.checkpoints.vlm import save_tiny

    return build_once("smolvlm", lambda folder: save_tiny("smolvlm", folder))


@pytest.fixture(scope="session")
def qwen(build_once):
    from emotion_perception.testing.checkpoints.vlm import save_tiny

    return build_once("qwen3_vl", lambda folder: save_tiny("qwen3_vl", folder))


@pytest.fixture(scope="session")
def text_model(build_once):
    from emotion_perception.testing.checkpoints.text import save_tiny_text

    return build_once("qwen2", lambda folder: save_tiny_text("qwen2", folder))
