"""Run the benchmarks: each model over all routes, and a frame without the models."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from emotion_perception.benchmarks.overhead import measure, measure_watchdog
from emotion_perception.benchmarks.report import machine, vlm_results
from emotion_perception.benchmarks.routes import VlmBenchmark
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.settings import vlm_settings
from emotion_perception.perception.devices import pick_device
from emotion_perception.testing.checkpoints.vlm import RECIPES, save_random

HEADLINES = ("speedup_vs_strongest", "strongest", "speedup_vs_prefix_cache", "speedup_vs_decision")
"""Figures of the first model that stand at the top of the results."""


def measure_vlm(
    shapes: Sequence[str],
    model: str | None,
    people: Sequence[int],
    rounds: int,
    device: str,
    parameters: Mapping[str, Any],
    report: Callable[[str], None],
    threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure the packed pass beside the routes that others offer, ready for JSON.

    Args:
        shapes: architectures with random weights; empty: those that fit the device.
        model: a folder or hub name instead of random weights.
        people: numbers of people per round.
        rounds: how often each route is timed, in turn.
        device: as the setting of the recognizer.
        parameters: further settings of the recognizer.
        report: called with what is measured now.
        threads: of a CPU; None: as PyTorch chooses.

    Yields:
        The results so far, after each round of each model: the rounds of a killed run are not lost.

    Raises:
        ValueError: a shape does not exist, or a setting is not allowed.
        ModelError: the model or the device cannot be used.
    """
    device = pick_device(device)
    names = [model] if model else list(shapes)
    names = names or ["SmolVLM2-500M", *["Qwen3-VL-2B"][: device == "cuda"]]
    for name in names if model is None else []:
        if name not in RECIPES:
            raise ValueError(f"no recipe for {name!r}: choose one of {', '.join(RECIPES)}")
    if threads:
        torch.set_num_threads(threads)
    _settings("", device, parameters)  # reports a wrong setting before minutes of work
    results: dict[str, Any] = {"machine": machine(device), "models": {}}
    dtype = "bfloat16" if device.startswith("cuda") else "float32"
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            report(f"{name}: loading")
            path = model or str(save_random(name, Path(folder) / name, dtype=dtype))
            settings = _settings(path, device, parameters)
            benchmark = VlmBenchmark(settings)
            for timings in benchmark.run(people, rounds, report):
                results["models"][name] = vlm_results(benchmark, timings, settings.dtype)
                first = next(iter(results["models"].values()))
                yield {**results, **{key: first[key] for key in HEADLINES}}
            benchmark.close()


def measure_frame(rounds: int) -> dict[str, Any]:
    """Measure the cost of a frame without the models, raw and as JPEG, ready for JSON."""
    times: dict[str, list[dict[str, float]]] = {"raw": [], "JPEG": []}
    for _ in range(rounds):
        for kind, measured in times.items():
            with tempfile.TemporaryDirectory() as folder:
                measured.append(measure(Path(folder), compressed=kind == "JPEG"))
    medians = {
        kind: {part: round(statistics.median(m[part] for m in measured), 2) for part in measured[0]}
        for kind, measured in times.items()
    }
    watchdog = {part: round(ms, 4) for part, ms in measure_watchdog().items()}
    return {"machine": machine("cpu"), "milliseconds": medians, "watchdog": watchdog}


def _settings(model: str, device: str, parameters: Mapping[str, Any]) -> VlmSettings:
    return vlm_settings({"model": model, "device": device, **parameters})
