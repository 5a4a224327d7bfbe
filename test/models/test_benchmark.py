"""The benchmark's bookkeeping, on a tiny model."""

import dataclasses
import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch.utils.flop_counter import FlopCounterMode

from emotion_perception.benchmarks.routes import Benchmark, Roofline, Sample, Timing
from emotion_perception.cli import bench, main
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.testing.checkpoints import save_tiny

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("bench") / "model")


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_the_roofline_counts_what_torch_counts(tmp_path, family):
    settings = RecognizerSettings(
        model=str(save_tiny(family, tmp_path)), scene_size=64, crop_size=64
    )
    benchmark = Benchmark(settings, Sample(1, 1, 2))
    scene, people = benchmark.scene(3)
    benchmark.recognizer._by_branch = False  # torch counts one attention, not one a branch
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        benchmark.recognizer.assess(scene, people)
    work = benchmark.recognizer.workload(scene, people)
    # Torch counts what the kernel does, which is to look at every pair and then mask.
    dense = dataclasses.replace(work, attended=work.tokens**2)
    predicted = Roofline.of(benchmark.recognizer.model, dense, 1.0, None).operations
    assert predicted == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert benchmark.roofline(3).operations < predicted


def test_no_picture_is_shown_twice(tiny):
    benchmark = Benchmark(RecognizerSettings(model=str(tiny)), Sample(1, 1, 2))
    images = [benchmark.scene(1)[0].frame.image.tobytes() for _ in range(4)]
    assert len(set(images)) == 4


def test_the_command_writes_ratios_that_a_script_can_read(tiny, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- vlm -->\nold\n<!-- /vlm -->\nafter\n")
    status = main.main(
        ["bench", "--only", "vlm", "--model", str(tiny), "--people", "1", "2", "--rounds", "2",
         "--device", "cpu", "--out", str(tmp_path / "out"), "--page", str(page)]
    )  # fmt: skip
    assert status == 0
    found = json.loads((tmp_path / "out" / "vlm.json").read_text())
    assert set(found["speedup_vs_decision"]) == {"1", "2"}
    assert all(ratio > 0 for ratio in found["speedup_vs_decision"].values())
    (model,) = found["models"].values()
    routes = model["people"]["2"]
    assert routes["decision"]["sampled"] == "3 of 29 questions about one person"
    assert routes["packed"]["times_packed"] == 1.0
    assert 0 < routes["roofline"]["share_of_limit"] < 1
    text = page.read_text()
    assert text.startswith("before\n<!-- vlm -->\nMeasured on: ")
    assert text.endswith("<!-- /vlm -->\nafter\n")
    assert "old" not in text


def test_every_part_of_a_frame_is_timed_and_none_is_left_out(tmp_path):
    pytest.importorskip("polars")
    from emotion_perception.benchmarks.overhead import measure

    for kind in ("raw", "jpeg"):
        (tmp_path / kind).mkdir()
        found = measure(tmp_path / kind, 15, compressed=kind == "jpeg")
        whole = found.pop("all")
        assert len(found) == 5
        assert min(found.values()) > 0
        assert sum(found.values()) == pytest.approx(whole, rel=0.3)


def test_what_is_sampled_is_multiplied_to_the_whole():
    assert Timing([4.0, 1.0, 2.0]).median == 2.0
    assert bench._median_ratio([10.0, 30.0, 20.0], [1.0, 2.0, 1.0]) == 15.0


def test_wrong_arguments_are_named(tmp_path, capsys):
    assert main.main(["bench", "--people", "0"]) == 2
    assert "--people and --rounds take whole numbers from 1" in capsys.readouterr().err
    assert main.main(["bench", "-p", "compile=1", "--shape", "tiny"]) == 2
    assert "no recipe for 'tiny'" in capsys.readouterr().err
