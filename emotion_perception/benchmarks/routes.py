"""Time one packed pass beside the routes that others offer, in one run.

All routes compute the same 26 labels and 3 dimensions of each person in a scene, see `ROUTES`. A
route is compared with a packed pass on images of the same size: `decision` and `json` prepare
images with the stock processor of the model, which may enlarge them (SmolVLM: to 512 px), and so
does `packed_stock`; the others use the sizes of the settings. No scene is used twice, so that no
cache of images helps. Weights are random: speed does not depend on their values.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers
from PIL import Image

from emotion_perception.benchmarks.prefix_route import PrefixCacheRoute
from emotion_perception.benchmarks.roofline import Roofline, data_sheet_peak, matrix_rate
from emotion_perception.benchmarks.shared_route import SharedPrefixRoute
from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC, VAD
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.recognizers.vlm.packing import Workload
from emotion_perception.recognizers.vlm.prefix import SceneTrunk
from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
from emotion_perception.testing.fakes import noise_image

transformers: Any = typed_transformers  # its annotations do not match what it accepts

ROUTES = {
    "packed": "this package",
    "shared_tree": "a prefix cache shared in place, level by level, the questions as a tree",
    "shared": "the same, all questions about all people as one batch",
    "shared_cold": "the same, with the text before the first image read in each round",
    "prefix": "a prefix cache that is copied for each question, a batch per person",
    "batched": "one question per row, in batches, person by person",
    "packed_next": "this package, as many other people of a scene that was read, in the same call",
    "packed_stock": "this package, with images as the stock processor prepares them",
    "decision": 'transformers\' `pipeline("decision")`, one question at a time',
    "json": "a generated JSON answer of 250 tokens",
}
"""What each route does. `packed`, `shared`, `shared_tree` and `prefix` keep the text before the
first image from round to round."""
COMPETITORS = ("shared_tree", "shared", "prefix", "batched")
"""Routes that others could build on images of the same size, of which the strongest is quoted."""
_STOCK = ("decision", "json")
QUESTIONS = len(EMOTIC) + len(VAD)
MAX_NEXT = 4
"""People of the largest second pass that is timed."""
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
    work: Workload | None = None
    """What a round computes; None where it is not counted."""
    rates: list[float] = field(default_factory=list)
    """Operations per second of a large matrix product, measured before each round."""

    @property
    def median(self) -> float:
        """Median seconds of a round."""
        return statistics.median(self.seconds)

    def add_share(self, per_person: Timing, people: int) -> None:
        """Add the newest round of a route that takes person after person."""
        self.seconds.append(per_person.seconds[-1] * people)
        self.cpu_seconds.append(per_person.cpu_seconds[-1] * people)
        self.peak_bytes = max(self.peak_bytes, per_person.peak_bytes)
        self.sampled = per_person.sampled


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
        return cls(QUESTIONS, QUESTIONS, JSON_TOKENS) if device == "cuda" else cls(3, 4, 16)


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
        vlm = self.recognizer.vlm
        self._prefix = PrefixCacheRoute(vlm)
        self._shared = {}
        if self.device == "cpu":  # merging by log-sum-exp is written for this device
            self._shared = {
                "shared_tree": SharedPrefixRoute(vlm, leaves_share=True),
                "shared": SharedPrefixRoute(vlm, leaves_share=False),
                "shared_cold": SharedPrefixRoute(vlm, leaves_share=False),
            }
        self._stock: VlmSettings | None = None
        if vlm.tiles:
            side = vlm.tiles.largest
            self._stock = dataclasses.replace(settings, scene_size=side, crop_size=side)

    @property
    def routes(self) -> list[str]:
        """The names of the routes that this model and device have."""
        missing = {"shared_tree", "shared", "shared_cold"} - set(self._shared)
        if self._stock is None:
            missing.add("packed_stock")
        if not self.recognizer.vlm.keep_scene:
            missing.add("packed_next")
        return [route for route in ROUTES if route not in missing]

    def reference(self, route: str) -> str:
        """Return the packed route that has images of the same size."""
        return "packed_stock" if self._stock and route in (*_STOCK, "packed_stock") else "packed"

    def run(
        self, people: Iterable[int], rounds: int, report: Callable[[str], None]
    ) -> Iterator[dict[int, dict[str, Timing]]]:
        """Time each route for each number of people, in `rounds` interleaved rounds.

        Args:
            people: numbers of people per round.
            rounds: how often each route is timed.
            report: called with what is timed now.

        Yields:
            After each round: number of people to route to timing.
        """
        counts = list(people)
        timings = {n: {route: Timing() for route in self.routes} for n in counts}
        for n in counts:
            if n > MAX_NEXT:
                timings[n].pop("packed_next", None)
        for n in counts:  # compile, allocate, page in
            self.recognizer.assess(*self.scene(n))
        for ask in self._cached_routes().values():
            self._ask(Timing(), counts[0], ask, self._settings)
        for number in range(rounds):
            for n in counts:
                report(f"round {number + 1} of {rounds}, {n} people")
                self._round(timings[n], n)
            # These routes take person after person, so n people cost n times one.
            report(f"round {number + 1} of {rounds}, one question at a time")
            for route, ask_alone in (
                ("batched", self._batched),
                ("decision", self._decision),
                ("json", self._json),
            ):
                per_person = ask_alone()
                for n in counts:
                    timings[n][route].add_share(per_person, n)
            yield timings

    def _round(self, timings: dict[str, Timing], n: int) -> None:
        scene, tracks = self.scene(n)
        packed = timings["packed"]
        packed.rates.append(matrix_rate(self.device, self._model.dtype))
        self._time(packed, lambda: self.recognizer.assess(scene, tracks))
        packed.work = self.recognizer.workload(scene, tracks)
        for route, ask in self._cached_routes().items():
            self._ask(timings[route], n, ask, self._settings)
            source = self._shared.get(route, self._prefix)
            timings[route].work = dataclasses.replace(
                packed.work, tokens=source.tokens, attended_pairs=source.attended_pairs
            )
        if "packed_next" in timings:
            self._next_pass(timings["packed_next"], n)
        if self._stock:
            ask = self.recognizer.vlm.answer_logits
            self._ask(timings["packed_stock"], n, ask, self._stock)

    def _next_pass(self, timing: Timing, n: int) -> None:
        scene, people = self.scene(2 * n)
        boxes = [person.box for person in people]
        images = prompts.make_prompt_images(scene.frame.image, boxes, self._settings)
        trunk, vlm = SceneTrunk(), self.recognizer.vlm
        vlm.packed_logits(images.select(0, n), trunk)
        self._time(timing, lambda: vlm.packed_logits(images.select(n, 2 * n), trunk))
        timing.work = vlm.workload(images.select(n, 2 * n), trunk)

    def _cached_routes(self) -> dict[str, Callable[[prompts.PromptImages], object]]:
        routes: dict[str, Callable[[prompts.PromptImages], object]] = {
            # A cold call leaves its text behind, which no other route uses.
            name: functools.partial(route.logits, warm=not name.endswith("_cold"))
            for name, route in self._shared.items()
        }
        return {**routes, "prefix": self._prefix.logits}

    def _ask(
        self, timing: Timing, n: int, ask: Callable[[prompts.PromptImages], object],
        settings: VlmSettings,
    ) -> None:  # fmt: skip
        scene, people = self.scene(n)
        boxes = [person.box for person in people]
        self._time(
            timing, lambda: ask(prompts.make_prompt_images(scene.frame.image, boxes, settings))
        )

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

    def roofline(self, work: Workload, rate: float) -> Roofline:
        """Count the operations of a round; the device has this rate of matrix operations."""
        return Roofline.count(self._model, work, rate, data_sheet_peak(self.device))

    def paged_tokens(self, n: int) -> int:
        """Return the tokens that an ideal paged server computes in a round.

        It reads each shared part once and pads nothing; its questions share no text beyond the
        person's.
        """
        vlm, plan = self.recognizer.vlm, self.recognizer.vlm.plan
        scene, people = self.scene(n)
        boxes = [person.box for person in people]
        images = prompts.make_prompt_images(scene.frame.image, boxes, self._settings)
        grids, _ = vlm.encode_images(images.images)
        assert plan is not None  # see `PrefixCacheRoute`
        tree, _ = plan.build_tree(grids, images.person_images, vlm.position_rule)
        roots = {i for i, s in enumerate(tree.segments) if s.parent is None}
        shared = sum(
            s.end - s.begin for i, s in enumerate(tree.segments) if i in roots or s.parent in roots
        )
        return shared - plan.constant_tokens + n * sum(map(len, plan.question_tokens()))

    def close(self) -> None:
        """Free the memory of the model."""
        self.recognizer.close()

    def _time(self, timing: Timing, call: Callable[[], object], times: float = 1) -> None:
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

    def _decision(self) -> Timing:
        scene, crop = self._prompt_images()
        questions = _decision_questions()
        count, timing = self.sample.questions, Timing()
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
        with torch.inference_mode():
            self._time(timing, lambda: self._decide(request), QUESTIONS / len(questions))
        return timing

    def _batched(self) -> Timing:
        scene, people = self.scene(1)
        boxes = [people[0].box]
        prompt_images = prompts.make_prompt_images(scene.frame.image, boxes, self._settings)
        rows = self.sample.rows
        timing = Timing(sampled=f"{rows} of {QUESTIONS} rows about one person")
        vlm = self.recognizer.vlm
        self._time(timing, lambda: vlm.batched_logits(prompt_images, 0, rows), QUESTIONS / rows)
        return timing

    def _json(self) -> Timing:
        scene, crop = self._prompt_images()
        text = self._chat("Answer with a JSON object of probabilities.")
        inputs = self._processor(text=[text], images=[[scene, crop]], return_tensors="pt")
        inputs = inputs.to(self._model.device, self._model.dtype)

        def generate(tokens: int) -> None:
            self._model.generate(
                **inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False
            )

        first, sample = Timing(), Timing()
        self._time(first, lambda: generate(1))
        self._time(sample, lambda: generate(self.sample.tokens))
        more = (JSON_TOKENS - 1) / (self.sample.tokens - 1)
        return Timing(
            [first.median + (sample.median - first.median) * more],
            [first.cpu_seconds[0] + (sample.cpu_seconds[0] - first.cpu_seconds[0]) * more],
            sample.peak_bytes,
            f"{self.sample.tokens} of {JSON_TOKENS} tokens about one person",
        )

    def _chat(self, question: str) -> str:
        return self.recognizer.vlm.chat(question)

    def _prompt_images(self) -> tuple[Any, Any]:
        scene, people = self.scene(1)
        boxes = [people[0].box]
        prompt_images = prompts.make_prompt_images(scene.frame.image, boxes, self._settings)
        first, second = (Image.fromarray(image) for image in prompt_images.images)
        return first, second


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
