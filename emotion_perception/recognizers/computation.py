"""Decide how a recognizer computes: in which number format, and compiled or not.

Batch commands compute as their settings say: `explicit` gives `dtype: auto` its value, which their
manifest records. The live node on a CPU measures instead, since what is fastest differs from CPU to
CPU, and keeps the choice on disk:

    settings ──► alternatives ──► cached choice? ──► make the recognizer
                      └──► both in turn, a round each ──► faster in every round? ──► keep
"""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from emotion_perception.core import documents
from emotion_perception.core.errors import EmotionPerceptionError, ModelError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.recognizer_settings import (
    DtypeSettings,
    RecognizerSettings,
    VlmSettings,
)
from emotion_perception.io.run_folder import fingerprint_files
from emotion_perception.perception.devices import (
    available_memory,
    computes_bfloat16,
    pick_device,
    pick_dtype,
    processor_name,
)
from emotion_perception.perception.model_folders import find_folder
from emotion_perception.recognizers.base import grey_scene
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm.prior import cache_folder, library_versions, write_cached

log = logging.getLogger(__name__)

Make = Callable[[Any], Recognizer]
Choice = dict[str, Any]
"""Name of a setting to its value."""
Options = Mapping[str, tuple[Any, Any]]
"""Name of a setting to its usual value and the alternative."""

ROUNDS = 3
"""Timed rounds of each alternative, per number of people."""
MIN_GAIN = 1.05
"""The least ratio of times for which an alternative is chosen, as the median of the rounds."""


def explicit(settings: RecognizerSettings) -> Any:
    """Return the settings with the number format that `dtype: auto` stands for on their device.

    Raises:
        ModelError: the device does not exist, or is a CPU and the format float16.
    """
    if not isinstance(settings, DtypeSettings):
        return settings
    return replace(settings, dtype=pick_dtype(settings.dtype, pick_device(settings.device)))


def make_live_recognizer(
    settings: RecognizerSettings,
    make: Make = make_recognizer,
    clock: Callable[[], float] = time.perf_counter,
) -> Recognizer:
    """Return the recognizer of the live node.

    On a CPU that has arithmetic in bfloat16, `dtype: auto` is bfloat16 where that is faster than
    float32, and `compile` compiles where that is faster than not to. Two models are in memory while
    they are compared; an alternative that cannot be used is logged and left out.

    Args:
        settings: of the recognizer.
        make: makes a recognizer from settings without alternatives.
        clock: returns seconds.

    Raises:
        ModelError: the recognizer cannot be made.
        RecognizerError: it cannot be warmed up.
    """
    options = _alternatives(settings)
    if not options:
        return make(settings)
    file = cache_folder() / "computation" / f"{_cache_key(settings)}.json"
    choice = _read(file, options)
    if choice is not None:
        log.info("%s, as measured at an earlier start (%s)", _words(choice), file)
        return make(replace(settings, **choice))
    recognizer, choice = _measure(settings, options, make, clock)
    if choice.keys() == options.keys():
        write_cached(file, json.dumps(choice).encode(), "the choice of computation")
    return recognizer


def _alternatives(settings: RecognizerSettings) -> Options:
    """Return the settings to choose by measurement; none on a GPU."""
    if not isinstance(settings, DtypeSettings) or pick_device(settings.device) != "cpu":
        return {}
    options: dict[str, tuple[Any, Any]] = {}
    compressed = getattr(settings, "quantization", "none") in ("8bit", "4bit")
    if settings.dtype == "auto" and computes_bfloat16() and not compressed:
        options["dtype"] = ("float32", "bfloat16")
    if isinstance(settings, VlmSettings) and settings.compile:
        options["compile"] = (False, True)
    return options


def _measure(
    settings: RecognizerSettings, options: Options, make: Make, clock: Callable[[], float]
) -> tuple[Recognizer, Choice]:
    """Return the fastest recognizer, and what was chosen, from one comparison per setting."""
    people = sorted({1, getattr(settings, "compile_people", 1) if "compile" in options else 1})
    usual: Choice = {name: values[0] for name, values in options.items()}
    choice: Choice = {}
    best = _made(replace(settings, **usual), make)
    for name, values in options.items():
        try:
            _check_memory(settings)
            rival = _made(replace(settings, **usual | choice | {name: values[1]}), make)
            try:
                seconds = [s for n in people for s in _interleaved((best, rival), n, clock)]
            except BaseException:
                rival.close()
                raise
        except (EmotionPerceptionError, RuntimeError) as error:
            log.info("%s is left out: %s", _words({name: values[1]}), error)
            continue
        gains = [usual_s / other_s for usual_s, other_s in seconds]
        is_faster = statistics.median(gains) >= MIN_GAIN and min(gains) > 1
        choice[name] = values[is_faster]
        medians = (statistics.median(column) for column in zip(*seconds, strict=True))
        log.info(
            "%s: a round takes %s",
            _words({name: choice[name]}),
            " and ".join(
                f"{s:.3g} s with {_word(v)}" for v, s in zip(values, medians, strict=True)
            ),
        )
        best, slower = (rival, best) if is_faster else (best, rival)
        slower.close()
    return best, choice


def _made(settings: RecognizerSettings, make: Make) -> Recognizer:
    """Return a recognizer after its warm-up."""
    recognizer = make(settings)
    try:
        recognizer.warm_up()
    except BaseException:
        recognizer.close()
        raise
    return recognizer


def _check_memory(settings: RecognizerSettings) -> None:
    """Check that a second model fits into memory; where it does not, the system may end processes.

    Raises:
        ModelError: it does not.
    """
    # Weights in 16 bits take twice their size in float32.
    needed = 2 * sum(file.stat().st_size for file in _weights(settings))
    available = available_memory()
    if needed > available:
        raise ModelError(
            f"cannot measure it: a second model takes up to {needed / 1e9:.1f} GB and "
            f"{available / 1e9:.1f} GB are available; set recognizer.dtype to use it unmeasured"
        )


def _interleaved(
    recognizers: Sequence[Recognizer], people: int, clock: Callable[[], float]
) -> list[tuple[float, ...]]:
    """Return the seconds of each recognizer in each of `ROUNDS` rounds.

    Within a round they follow each other, so that a busy machine slows all of them alike.
    """
    scene = grey_scene(people)
    rounds = []
    for _ in range(ROUNDS):
        seconds = []
        for recognizer in recognizers:
            start = clock()
            recognizer.assess(scene, scene.people)
            seconds.append(clock() - start)
        rounds.append(tuple(seconds))
    return rounds


def _cache_key(settings: RecognizerSettings) -> str:
    """Return a hash of what the speed depends on: CPU, threads, libraries, model and settings."""
    import torch

    machine = (processor_name(), torch.get_num_threads(), library_versions())
    contents = (machine, fingerprint_files(_weights(settings)), asdict(settings))
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def _weights(settings: RecognizerSettings) -> list[Path]:
    """Return the files with the weights of all models that the settings name.

    Raises:
        ModelError: there is no such model.
    """
    names = [getattr(settings, name, "") for name in ("model", "text_model")]
    folders = [find_folder(name, "recognizer.model", "OWNER/NAME") for name in names if name]
    folders.append(Path(getattr(settings, "adapter", "") or folders[0]).expanduser())
    return sorted({file for folder in folders for file in folder.glob("*.safetensors")})


def _read(file: Path, options: Options) -> Choice | None:
    """Return the choice in a file; None where there is no file, or an unfit one."""
    if not file.is_file():
        return None
    try:
        choice = documents.read_json_object(file)
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s): the computation is measured again", file, error)
        return None
    fits = choice.keys() == options.keys() and all(
        type(value) is type(options[name][0]) and value in options[name]
        for name, value in choice.items()
    )
    if not fits:
        log.warning("%s holds another choice: the computation is measured again", file)
        return None
    return choice


def _words(choice: Choice) -> str:
    return ", ".join(f"recognizer.{name} = {_word(value)}" for name, value in choice.items())


def _word(value: Any) -> str:
    return str(value).lower()
