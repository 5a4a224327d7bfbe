"""Benchmarks: what they count, time and write, on a tiny model."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from emotion_perception.benchmarks import measurement, report, routes
from emotion_perception.benchmarks.prefix_route import PrefixCacheRoute
from emotion_perception.benchmarks.roofline import Roofline
from emotion_perception.benchmarks.routes import Sample, Timing, VlmBenchmark
from emotion_perception.benchmarks.shared_route import SharedPrefixRoute
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
    assert benchmark.roofline(work, 1.0).operations < predicted


@needs_decisions
@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
@pytest.mark.parametrize(
    "make_route",
    [
        PrefixCacheRoute,
        functools.partial(SharedPrefixRoute, leaves_share=False),
        functools.partial(SharedPrefixRoute, leaves_share=True),
    ],
    ids=["copied", "shared", "tree"],
)
def test_prefix_caches_give_the_answers_of_the_packed_pass(tmp_path, family, make_route):
    settings = recognizer_settings(
        model=str(save_tiny(family, tmp_path)), scene_size=96, crop_size=64, device="cpu"
    )
    benchmark = VlmBenchmark(settings, Sample(1, 1, 2))
    route = make_route(benchmark.recognizer.vlm)
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
    computed = []
    attention.language_model(vlm.model).layers[0].register_forward_pre_hook(
        lambda _, args: computed.append(args[0].shape[0] * args[0].shape[1])
    )
    scene, tracks = benchmark.scene(2)
    boxes = [track.box for track in tracks]
    prompt_images = prompts.make_prompt_images(scene.frame.image, boxes, settings)
    routes = [PrefixCacheRoute(vlm), *(SharedPrefixRoute(vlm, share) for share in (True, False))]
    for route in routes:
        counts = []
        for warm in (True, True, False):
            computed.clear()
            route.logits(prompt_images, warm)
            assert route.tokens == sum(computed)
            counts.append(route.tokens)
        first, second, cold = counts
        assert first == cold == vlm.plan.constant_tokens + second


@needs_decisions
def test_paged_server_computes_what_a_batch_without_padding_computes(tiny):
    settings = recognizer_settings(model=str(tiny), scene_size=64, crop_size=64, device="cpu")
    benchmark = VlmBenchmark(settings, Sample(1, 1, 2))
    plan = benchmark.recognizer.vlm.plan
    questions = plan.question_tokens()
    padding = sum(max(map(len, questions)) - len(question) for question in questions)
    route = SharedPrefixRoute(benchmark.recognizer.vlm, leaves_share=False)
    scene, tracks = benchmark.scene(3)
    boxes = [track.box for track in tracks]
    for _ in range(2):
        route.logits(prompts.make_prompt_images(scene.frame.image, boxes, settings))
    assert benchmark.paged_tokens(3) == route.tokens - 3 * padding


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
    for n, strongest in results["strongest"].items():
        times = {route: model["people"][n][route]["times_packed"] for route in routes.COMPETITORS}
        assert results["speedup_vs_strongest"][n] == times[strongest] == min(times.values())
    routes_of_two = model["people"]["2"]
    assert routes_of_two["decision"]["sampled"] == "3 of 29 questions about one person"
    assert routes_of_two["packed"]["times_packed"] == 1.0
    assert 0 < routes_of_two["packed"]["roofline"]["share_of_limit"] < 1
    assert len(routes_of_two["packed"]["roofline"]["rates"]) == model["rounds"] == 2
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
    of_four = Timing()
    of_four.add_share(benchmark._batched(), 4)
    assert of_four.seconds == [4 * 2.0 * 29 / 8]
    assert of_four.sampled == "8 of 29 rows about one person"


@pytest.fixture
def timed(tiny):
    """A benchmark, and one round of timings that another machine could have measured."""
    benchmark = VlmBenchmark(recognizer_settings(model=str(tiny), device="cpu"), Sample(1, 1, 2))
    timings = {route: Timing([10.0, 30.0, 20.0], [1.0, 1.0, 1.0]) for route in benchmark.routes}
    work = benchmark.recognizer.workload(*benchmark.scene(1))
    timings["packed"] = Timing([1.0, 2.0, 1.0], [1.0, 1.0, 2.0], work=work, rates=[1e12] * 3)
    return benchmark, timings


@needs_decisions
def test_ratios_are_medians_over_rounds(timed):
    benchmark, timings = timed
    results = report.vlm_results(benchmark, {1: timings}, "float32")
    route = results["people"]["1"]["shared"]
    assert route["milliseconds"] == 20_000
    assert route["times_packed"] == 15.0
    assert route["times_packed_quartiles"] == [12.5, 17.5]
    assert route["times_packed_cpu"] == 1.0
    assert results["faults"] == []


@needs_decisions
def test_impossible_share_of_the_limit_is_a_fault(timed, capsys, monkeypatch, tmp_path):
    benchmark, timings = timed
    timings["packed"].rates[:] = [1.0] * 3
    results = report.vlm_results(benchmark, {1: timings}, "float32")
    assert results["people"]["1"]["packed"]["roofline"]["share_of_limit"] is None
    assert results["faults"][0].startswith("1 people: a packed pass took ")
    results = {"machine": {}, "models": {"tiny": results}}
    monkeypatch.setattr(measurement, "measure_vlm", lambda *_: iter([results]))
    status = main.main(["bench", "--only", "vlm", "--out", str(tmp_path)])
    assert status == 1
    assert "cannot report the share of the limit: tiny, 1 people" in capsys.readouterr().err
    assert (tmp_path / "vlm.json").is_file()


@needs_decisions
def test_killed_benchmark_leaves_the_rounds_that_it_finished(tiny, monkeypatch, tmp_path):
    finished = []

    def stop_in_the_second_round(benchmark, timings, n):
        if finished:
            raise KeyboardInterrupt
        finished.append(n)
        whole_round(benchmark, timings, n)

    whole_round = VlmBenchmark._round
    monkeypatch.setattr(VlmBenchmark, "_round", stop_in_the_second_round)
    options = ["--people", "1", "--rounds", "2", "--device", "cpu", "--out", str(tmp_path)]
    main.main(["bench", "--only", "vlm", "--model", str(tiny), *options])
    (model,) = json.loads((tmp_path / "vlm.json").read_text())["models"].values()
    assert model["rounds"] == 1


def test_wrong_arguments_are_reported(tmp_path, capsys):
    assert main.main(["bench", "--people", "0"]) == 2
    assert "--people, --rounds and --threads take whole numbers from 1" in capsys.readouterr().err
    assert main.main(["bench", "-p", "compile=1", "--shape", "tiny"]) == 2
    assert "'compile=1': write it as NAME:=VALUE" in capsys.readouterr().err
    assert main.main(["bench", "--only", "vlm", "--shape", "tiny"]) == 2
    assert "no recipe for 'tiny'" in capsys.readouterr().err
