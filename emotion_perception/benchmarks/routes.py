"""Time one packed pass beside the routes that others offer, in one run.

Six routes compute the same 26 labels and 3 dimensions of each person in a scene:

    packed     one pass for all people (`recognizers/vlm/packing.py`)
    prefix     the shared parts once as a KV cache, the questions in a batch per person
               (`prefix_route.py`); like `packed`, it keeps the text before the first image
    prefix_cold  the same, and reads that text in each round
    decision   pipeline("decision") of transformers: one forward pass per question
    batched    one question per row, in batches, person by person
    json       a JSON object that the model generates token by token

All routes get the same images, and no image twice, so that no cache helps. `decision` and `json`
prepare them with the stock processor of the model, which may enlarge them (SmolVLM: to 512 px);
`packed`, `prefix` and `batched` use the sizes of the settings. Weights are random: speed does not
depend on their values.
"""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers
from PIL import Image

from emotion_perception.benchmarks.prefix_route import PrefixCacheRoute
from emotion_perception.benchmarks.roofline import Roofline, data_sheet_peak, matrix_rate
from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC, VAD
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
from emotion_perception.testing.fakes import noise_image

transformers: Any = typed_transformers  # its annotations do not match what it accepts

QUESTIONS = len(EMOTIC) + len(VAD)
JSON_TOKENS = 250
"""Tokens of 26 probabilities and 3 numbers, written with their names."""


@dataclass
class Timing:
    """Seconds and peak memory of one route over the rounds."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all threads of the process: on a busy machine they say more than `seconds`."""
    peak_bytes: int = 0
    sampled: str = ""
    """The part that was timed and multiplied; empty where the whole was timed."""

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Sample:
    """The part of the slow routes that is timed; the rest is multiplied."""

    questions: int
    """Of the 29 questions per person of the decision route."""
    rows: int
    """Of the 29 rows of the batched route."""
    tokens: int
    """Of the 250 tokens of the JSON route."""

    @classmethod
    def for_device(cls, device: str) -> Sample:
        """Return the whole on a GPU, and a sample of the routes that take minutes on a CPU."""
        return cls(QUESTIONS, QUESTIONS, JSON_TOKENS) if device == "cuda" else cls(3, 8, 16)


class VlmBenchmark:
    """The routes over one model."""

    def __init__(self, settings: VlmSettings, sample: Sample | None = None) -> None:
        """Load the model.

        Raises:
            ModelError: the model cannot be used, or transformers is too old.
        """
        self.recognizer = VlmRecognizer(settings)
        self._settings = settings
        self._model: Any = self.recognizer.vlm.model
        self._processor: Any = self.recognizer.vlm.processor
        self.device = str(self._model.device.type)
        self.sample = sample or Sample.for_device(self.device)
        try:
            self._decide = transformers.pipeline(
                "decision",
                model=self._model,
                tokenizer=self._processor.tokenizer,
                processor=self._processor,
            )
        except KeyError as error:
            raise ModelError(
                f"cannot time the usual ways: transformers {typed_transformers.__version__} has no "
                "pipeline 'decision'; install the transformers of requirements/tested.txt"
            ) from error
        self._scenes = 0
        self._prefix = PrefixCacheRoute(self.recognizer.vlm)

    def run(
        self, people: Iterable[int], rounds: int, report: Callable[[str], None]
    ) -> dict[int, dict[str, Timing]]:
        """Time each route for each number of people, in `rounds` interleaved rounds.

        Args:
            people: numbers of people per round.
            rounds: how often each route is timed.
            report: called with what is timed now.

        Returns:
            Number of people to route to timing.
        """
        counts = list(people)
        names = ("packed", "prefix", "prefix_cold", "decision", "batched", "json")
        timings = {n: {route: Timing() for route in names} for n in counts}
        for n in counts:  # compile, allocate, page in
            self.recognizer.assess(*self.scene(n))
        self._prefix_cache(Timing(), counts[0], warm=True)
        for number in range(rounds):
            for n in counts:
                report(f"round {number + 1} of {rounds}, {n} people")
                scene, tracks = self.scene(n)
                assess = functools.partial(self.recognizer.assess, scene, tracks)
                self._time(timings[n]["packed"], 1, assess)
                self._prefix_cache(timings[n]["prefix"], n, warm=True)
                # A cold call leaves its text behind, which the next warm one uses.
                self._prefix_cache(timings[n]["prefix_cold"], n, warm=False)
                self._decision(timings[n]["decision"], n)
            # These routes take person after person, so n people cost n times one.
            self._batched({n: timings[n]["batched"] for n in counts})
            self._json({n: timings[n]["json"] for n in counts})
        return timings

    def scene(self, n: int) -> tuple[Scene, list[Track]]:
        """Return a scene that no route has seen before, with n people."""
        self._scenes += 1
        width, height = 1280, 720
        step = width / n
        people = [
            Track(f"p{i:05d}", Box(i * step, height * 0.1, (i + 0.9) * step, height * 0.95), 0.9)
            for i in range(n)
        ]
        frame = Frame(noise_image(width, height, self._scenes), self._scenes, "")
        return Scene(frame, tuple(people)), people

    def roofline(self, n: int) -> Roofline:
        """Count the operations of a packed round with n people, and measure the device's rate."""
        work = self.recognizer.workload(*self.scene(n))
        rate = matrix_rate(self.device, self._model.dtype)
        return Roofline.count(self._model, work, rate, data_sheet_peak(self.device))

    def close(self) -> None:
        """Free the memory of the model."""
        self.recognizer.close()

    def _time(self, timing: Timing, times: float, call: Callable[[], object]) -> None:
        gc.collect()
        _reset_peak(self.device)
        self._wait()
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        self._wait()
        timing.seconds.append((time.perf_counter() - start) * times)
        timing.cpu_seconds.append((time.process_time() - start_cpu) * times)
        timing.peak_bytes = max(timing.peak_bytes, _peak(self.device))

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _prefix_cache(self, timing: Timing, n: int, warm: bool) -> None:
        scene, people = self.scene(n)
        boxes = [person.box for person in people]

        def ask() -> None:
            image = scene.frame.image
            prompt_images = prompts.make_prompt_images(image, boxes, self._settings)
            self._prefix.logits(prompt_images, warm)

        self._time(timing, 1, ask)

    def _decision(self, timing: Timing, n: int) -> None:
        scene, crop = self._prompt_images()
        questions = _decision_questions()
        count = self.sample.questions
        if count < len(questions):
            # Spread over the list, which holds labels and dimensions.
            step = len(questions) / count
            chosen = [list(questions)[int(i * step)] for i in range(count)]
            questions = {name: questions[name] for name in chosen}
            timing.sampled = f"{count} of {QUESTIONS} questions about one person"
        request = {
            "state": "<scene>\nThis is a scene.\n<crop>\nThis is one person of the scene.",
            "questions": questions,
            "assets": {"<scene>": scene, "<crop>": crop},
        }
        times = QUESTIONS / len(questions) * n
        with torch.inference_mode():
            self._time(timing, times, lambda: self._decide(request))

    def _batched(self, timings: dict[int, Timing]) -> None:
        scene, people = self.scene(1)
        boxes = [people[0].box]
        prompt_images = prompts.make_prompt_images(scene.frame.image, boxes, self._settings)
        per_person, rows = Timing(), self.sample.rows
        self._time(
            per_person,
            QUESTIONS / rows,
            lambda: self.recognizer.vlm.batched_logits(prompt_images, 0, rows),
        )
        _share(per_person, timings, f"{rows} of {QUESTIONS} rows about one person")

    def _json(self, timings: dict[int, Timing]) -> None:
        scene, crop = self._prompt_images()
        text = self._chat("Answer with a JSON object of probabilities.")
        inputs = self._processor(text=[text], images=[[scene, crop]], return_tensors="pt")
        inputs = inputs.to(self._model.device, self._model.dtype)

        def generate(tokens: int) -> None:
            self._model.generate(
                **inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False
            )

        first, sample, per_person = Timing(), Timing(), Timing()
        self._time(first, 1, lambda: generate(1))
        self._time(sample, 1, lambda: generate(self.sample.tokens))
        per_token = (sample.median - first.median) / (self.sample.tokens - 1)
        per_person.seconds = [first.median + per_token * (JSON_TOKENS - 1)]
        per_token_cpu = (sample.cpu_seconds[0] - first.cpu_seconds[0]) / (self.sample.tokens - 1)
        per_person.cpu_seconds = [first.cpu_seconds[0] + per_token_cpu * (JSON_TOKENS - 1)]
        per_person.peak_bytes = sample.peak_bytes
        _share(
            per_person, timings, f"{self.sample.tokens} of {JSON_TOKENS} tokens about one person"
        )

    def _chat(self, question: str) -> str:
        return self.recognizer.vlm.chat(question)

    def _prompt_images(self) -> tuple[Any, Any]:
        scene, people = self.scene(1)
        boxes = [people[0].box]
        prompt_images = prompts.make_prompt_images(scene.frame.image, boxes, self._settings)
        first, second = (Image.fromarray(image) for image in prompt_images.images)
        return first, second


def _share(per_person: Timing, timings: dict[int, Timing], sampled: str) -> None:
    for n, timing in timings.items():
        timing.seconds.append(per_person.seconds[-1] * n)
        timing.cpu_seconds.append(per_person.cpu_seconds[-1] * n)
        timing.peak_bytes = max(timing.peak_bytes, per_person.peak_bytes)
        timing.sampled = sampled


def _decision_questions() -> dict[str, dict[str, Any]]:
    """Return the labels as yes/no questions with their definitions, the dimensions as scales."""
    questions: dict[str, dict[str, Any]] = {
        label: {"type": "noul", "instructions": f"Does this person feel {label} ({meaning})?"}
        for label, meaning in EMOTIC.items()
    }
    for name, (low, high) in VAD.items():
        levels = [low, *(str(i) for i in range(2, 9)), high]
        questions[name] = {
            "type": "score",
            "instructions": f"What is the {name} of this person's feelings?",
            "criteria": levels,
        }
    return questions


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is in use now


def _peak(device: str) -> int:
    """Return the peak in bytes: allocated on the GPU, or resident on the CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024
