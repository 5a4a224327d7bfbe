"""Benchmarks: what they count, time and write, on a tiny model."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from emotion_perception.benchmarks import report, routes
from emotion_perception.benchmarks.prefix_route import PrefixCacheRoute
from emotion_perception.benchmarks.roofline import Roofline
from emotion_perception.benchmarks.routes import Sample, Timing, VlmBenchmark
from emotion_perception.cli import main
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.recognizers.vlm import attention, prompts
from emotion_perception.testing.checkpoints.vlm import save_tiny

pytestmark = pytest.mark.models
needs_decisions = pytest.mark.skipif(
    "decision" not in transformers.pipelines.get_supported_tasks(),
    reason="transformers has no pipeline 'decision'; it is too old for the benchmark",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("bench") / "model")


@needs_decisions
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_roofline_counts_the_operations_that_torch_counts(tmp_path, family):
    settings = recognizer_settings(
        model=str(save_tiny(family, tmp_path)), scene_size=64, crop_size=64
    )
    benchmark = VlmBenchmark(settings, Sample(1, 1, 2))
    scene, people = benchmark.scene(3)
    benchmark.recognizer.vlm.by_branch = False  # torch counts one attention, not one per branch
    benchmark.recognizer.assess(scene, people)  # reads the prefix
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        benchmark.recognizer.assess(scene, people)
    work = benchmark.recognizer.workload(scene, people)
    # torch counts the kernel, which computes each pair and then masks.
    dense = dataclasses.replace(
        work, attended_pairs=work.tokens * (work.cached_tokens + work.tokens)
    )
    predicted = Roofline.count(benchmark.recognizer.vlm.model, dense, 1.0, None).operations
    assert predicted == pytest.approx(counter.get_total_flops(), rel=0.1)
    assert benchmark.roofline(3).operations < predicted


@needs_decisions
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
def test_prefix_cache_gives_the_answers_of_the_packed_pass(tmp_path, family):
    settings = recognizer_settings(
        model=str(save_tiny(family, tmp_path)), scene_size=96, crop_size=64, device="cpu"
    )
    benchmark = VlmBenchmark(settings, Sample(1, 1, 2))
    route = PrefixCacheRoute(benchmark.recognizer.vlm)
    for people, warm in ((3, True), (1, True), (2, False)):
        scene, tracks = benchmark.scene(people)
        boxes = [track.box for track in tracks]
        prompt_images = prompts.make_prompt_images(scene.frame.image, boxes, settings)
        expected = benchmark.recognizer.vlm.packed_logits(prompt_images)
        assert np.abs(route.logits(prompt_images, warm) - expected).max() < 1e-5


@needs_decisions
def test_warm_prefix_cache_reads_the_text_before_the_first_image_once(tiny):
    settings = recognizer_settings(model=str(tiny), scene_size=64, crop_size=64, device="cpu")
    benchmark = VlmBenchmark(settings, Sample(1, 1, 2))
    vlm = benchmark.recognizer.vlm
    route, lengths = PrefixCacheRoute(vlm), []
    attention.language_model(vlm.model).layers[0].register_forward_pre_hook(
        lambda _, args: lengths.append(args[0].shape[1])
    )
    scene, tracks = benchmark.scene(1)
    boxes = [track.box for track in tracks]
    prompt_images = prompts.make_prompt_images(scene.frame.image, boxes, settings)
    for warm in (True, True, False):
        route.logits(prompt_images, warm)
    first, second, cold = lengths[:4], lengths[4:7], lengths[7:]
    assert first == cold == [vlm.plan.constant_tokens, *second]


@needs_decisions
def test_each_scene_has_a_new_image(tiny):
    benchmark = VlmBenchmark(recognizer_settings(model=str(tiny)), Sample(1, 1, 2))
    images = [benchmark.scene(1)[0].frame.image.tobytes() for _ in range(4)]
    assert len(set(images)) == 4


@needs_decisions
def test_command_writes_json_and_updates_the_page(tiny, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- vlm -->\nold\n<!-- /vlm -->\nafter\n")
    status = main.main(
        ["bench", "--only", "vlm", "--model", str(tiny), "--people", "1", "2", "--rounds", "2",
         "--device", "cpu", "--out", str(tmp_path / "out"), "--page", str(page)]
    )  # fmt: skip
    assert status == 0
    results = json.loads((tmp_path / "out" / "vlm.json").read_text())
    assert set(results["speedup_vs_decision"]) == {"1", "2"}
    assert all(ratio > 0 for ratio in results["speedup_vs_decision"].values())
    assert set(results["speedup_vs_prefix_cache"]) == {"1", "2"}
    assert all(ratio > 0 for ratio in results["speedup_vs_prefix_cache"].values())
    (model,) = results["models"].values()
    routes_of_two = model["people"]["2"]
    assert routes_of_two["decision"]["sampled"] == "3 of 29 questions about one person"
    assert routes_of_two["packed"]["times_packed"] == 1.0
    assert 0 < routes_of_two["roofline"]["share_of_limit"] < 1
    text = page.read_text()
    assert text.startswith("before\n<!-- vlm -->\nMeasured on: ")
    assert text.endswith("<!-- /vlm -->\nafter\n")
    assert "\nold\n" not in text


@pytest.mark.parametrize("kind", ["raw", "jpeg"])
def test_parts_of_a_frame_sum_to_the_whole(tmp_path, monkeypatch, kind):
    pytest.importorskip("polars")
    from emotion_perception.benchmarks import overhead

    clock = itertools.count()
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: next(clock))
    parts = overhead.measure(tmp_path, 15, compressed=kind == "jpeg")
    whole = parts.pop("all")
    assert len(parts) == 5
    assert min(parts.values()) >= 1000  # at least one tick of this clock, in milliseconds
    assert sum(parts.values()) == whole


@needs_decisions
def test_sampled_part_is_multiplied_to_the_whole(tiny, monkeypatch):
    benchmark = VlmBenchmark(recognizer_settings(model=str(tiny)), Sample(3, 8, 2))
    clock = itertools.count(step=2.0)
    monkeypatch.setattr(routes.time, "perf_counter", lambda: next(clock))
    timings = {n: Timing() for n in (1, 4)}
    benchmark._batched(timings)
    assert timings[1].seconds == [2.0 * 29 / 8]
    assert timings[4].seconds == [4 * 2.0 * 29 / 8]
    assert timings[4].sampled == "8 of 29 rows about one person"


def test_medians_are_taken_over_rounds():
    assert Timing([4.0, 1.0, 2.0]).median == 2.0
    assert report.median_ratio([10.0, 30.0, 20.0], [1.0, 2.0, 1.0]) == 15.0


def test_wrong_arguments_are_reported(tmp_path, capsys):
    assert main.main(["bench", "--people", "0"]) == 2
    assert "--people and --rounds take whole numbers from 1" in capsys.readouterr().err
    assert main.main(["bench", "-p", "compile=1", "--shape", "tiny"]) == 2
    assert "'compile=1': write it as NAME:=VALUE" in capsys.readouterr().err
    assert main.main(["bench", "--only", "vlm", "--shape", "tiny"]) == 2
    assert "no recipe for 'tiny'" in capsys.readouterr().err
