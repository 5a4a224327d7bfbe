"""One packed pass against the ways of asking that others offer, side by side in one run.

Four routes to the same 26 labels and 3 dimensions of every person in a scene:

    packed     one pass for everybody (`packing.py`)
    decision   transformers' pipeline("decision"): one forward pass a question
    batched    one question a row, in batches, person by person
    json       a JSON object written by the model, token after token

All get the same pictures, and no picture twice, so that no cache can help. `decision` and `json`
show them to the model as its stock processor does, which may enlarge them (SmolVLM: to 512 px);
`packed` and `batched` in the sizes of the settings. Weights are random: speed does not depend on
their values.
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

from emotion_perception.core.labels import EMOTIC, VAD
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.recognizers.vlm.packing import Workload
from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
from emotion_perception.testing.fakes import picture

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

QUESTIONS = len(EMOTIC) + len(VAD)
JSON_TOKENS = 250
"""What 26 probabilities and 3 numbers take, written out with their names."""

MATRIX_PEAKS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "Orin": 42.5e12,
}
"""Dense 16-bit operations a second by the makers' data sheets, by part of the device's name."""


@dataclass
class Timing:
    """Seconds and peak memory of one route, over the rounds."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    sampled: str = ""
    """What was timed and multiplied, where the whole would have taken too long."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Sample:
    """How much of the slow routes is timed; the rest is multiplied."""

    questions: int
    """Of the 29 of the decision route, a person."""
    rows: int
    """Of the 29 of the batched route."""
    tokens: int
    """Of the 250 of the JSON route."""

    @classmethod
    def for_device(cls, device: str) -> Sample:
        """Everything on a GPU; what takes minutes on a CPU is sampled."""
        return cls(QUESTIONS, QUESTIONS, JSON_TOKENS) if device == "cuda" else cls(3, 8, 16)


@dataclass(frozen=True, slots=True)
class Roofline:
    """The operations of a packed round, from the shapes alone, and the time they need at least."""

    vision_parameters: int
    language_parameters: int
    """Without the embedding, which is only looked up."""
    patches: int
    tokens: int
    attended_pairs: int
    operations: float
    rate: float
    """Operations a second of a large matrix product, measured on this device."""
    data_sheet_rate: float | None

    @classmethod
    def of(cls, model: Any, work: Workload, rate: float, data_sheet_rate: float | None) -> Roofline:
        """From the model's parameters and the round's numbers of patches, tokens and pairs.

        Every weight multiplies and adds once a token (2 operations); attention does so twice a
        pair, head dimension, head and layer, for the scores and for the values.
        """
        config = model.config.get_text_config()
        vision = model.config.vision_config
        depth = getattr(vision, "num_hidden_layers", None) or vision.depth
        embedding = model.get_input_embeddings().weight.numel()
        head = model.get_output_embeddings().weight
        text = model.model.get_decoder() if hasattr(model.model, "get_decoder") else model.model
        everything = sum(weight.numel() for weight in model.model.parameters())
        language = sum(weight.numel() for weight in text.parameters()) - embedding
        joints = ("merger", "connector", "projector")  # work on tokens, not on patches
        joining = sum(
            weight.numel()
            for name, weight in model.model.named_parameters()
            if any(joint in name for joint in joints)
        )
        seeing = everything - language - embedding - joining
        head_size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        operations = (
            2 * seeing * sum(work.patches)
            + 2 * joining * sum(work.picture_tokens)
            + 4 * vision.hidden_size * depth * sum(n * n for n in work.patches)
            + 2 * language * work.tokens
            + 4 * config.num_attention_heads * head_size * config.num_hidden_layers * work.attended
            + 2 * head.shape[1] * work.head_rows * work.answers
        )
        return cls(
            vision_parameters=seeing + joining,
            language_parameters=language,
            patches=sum(work.patches),
            tokens=work.tokens,
            attended_pairs=round(work.attended),
            operations=float(operations),
            rate=rate,
            data_sheet_rate=data_sheet_rate,
        )

    def to_json(self, seconds: float) -> dict[str, Any]:
        """The inputs, and how near a round that took so long came to the limit."""
        sheet = self.data_sheet_rate
        return {
            "vision_parameters": self.vision_parameters,
            "language_parameters": self.language_parameters,
            "patches": self.patches,
            "tokens": self.tokens,
            "attended_pairs": self.attended_pairs,
            "tera_operations": self.operations / 1e12,
            "matrix_tera_operations_per_second": self.rate / 1e12,
            "limit_milliseconds": self.operations / self.rate * 1e3,
            "share_of_limit": self.operations / self.rate / seconds,
            "share_of_data_sheet": sheet and self.operations / sheet / seconds,
        }


class Benchmark:
    """The four routes over one model."""

    def __init__(self, settings: RecognizerSettings, sample: Sample | None = None) -> None:
        """
        Raises:
            ModelError: the model is missing or unfit.
        """
        self.recognizer = VlmRecognizer(settings)
        self._settings = settings
        self._model: Any = self.recognizer.model
        self._processor: Any = self.recognizer.processor
        self.device = str(self._model.device.type)
        self.sample = sample or Sample.for_device(self.device)
        self._decide = transformers.pipeline(
            "decision",
            model=self._model,
            tokenizer=self._processor.tokenizer,
            processor=self._processor,
        )
        self._scenes = 0

    def run(
        self, people: Iterable[int], rounds: int, report: Callable[[str], None]
    ) -> dict[int, dict[str, Timing]]:
        """Time every route for each number of people, `rounds` times in turn.

        Args:
            report: is told what is being timed.
        """
        counts = list(people)
        timings = {
            n: {route: Timing() for route in ("packed", "decision", "batched", "json")}
            for n in counts
        }
        for n in counts:  # compile, allocate, page in
            self.recognizer.assess(*self.scene(n))
        for number in range(rounds):
            for n in counts:
                report(f"round {number + 1} of {rounds}, {n} people")
                scene, tracks = self.scene(n)
                assess = functools.partial(self.recognizer.assess, scene, tracks)
                self._time(timings[n]["packed"], 1, assess)
                self._decision(timings[n]["decision"], n)
            # Whole persons one after the other: n people cost n times one.
            self._batched({n: timings[n]["batched"] for n in counts})
            self._json({n: timings[n]["json"] for n in counts})
        return timings

    def scene(self, n: int) -> tuple[Scene, list[Track]]:
        """A scene that was never seen before, with n people in it."""
        self._scenes += 1
        width, height = 1280, 720
        step = width / n
        people = [
            Track(f"p{i:05d}", Box(i * step, height * 0.1, (i + 0.9) * step, height * 0.95), 0.9)
            for i in range(n)
        ]
        frame = Frame(picture(width, height, self._scenes), self._scenes, "")
        return Scene(frame, tuple(people)), people

    def roofline(self, n: int) -> Roofline:
        """What a packed round about n people computes, and what this device could do."""
        work = self.recognizer.workload(*self.scene(n))
        rate = matrix_rate(self.device, self._model.dtype)
        return Roofline.of(self._model, work, rate, data_sheet_peak(self.device))

    def _time(self, timing: Timing, times: float, call: Callable[[], object]) -> None:
        gc.collect()
        _reset_peak(self.device)
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        timing.seconds.append((time.perf_counter() - start) * times)
        timing.peak_bytes = max(timing.peak_bytes, _peak(self.device))

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _decision(self, timing: Timing, n: int) -> None:
        scene, crop = self._pictures()
        questions = _decision_questions()
        asked = self.sample.questions
        if asked < len(questions):
            # One in 29 of each kind does not exist: the spread is over the list.
            step = len(questions) / asked
            chosen = [list(questions)[int(i * step)] for i in range(asked)]
            questions = {name: questions[name] for name in chosen}
            timing.sampled = f"{asked} of {QUESTIONS} questions about one person"
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
        shown = prompts.show(scene.frame.image, [people[0].box], self._settings)
        one, rows = Timing(), self.sample.rows
        self._time(
            one,
            QUESTIONS / rows,
            lambda: self.recognizer.ask_in_batches(shown, shown.seen[0], rows),
        )
        _share(one, timings, f"{rows} of {QUESTIONS} rows about one person")

    def _json(self, timings: dict[int, Timing]) -> None:
        scene, crop = self._pictures()
        text = self._chat("Answer with a JSON object of probabilities.")
        inputs = self._processor(text=[text], images=[[scene, crop]], return_tensors="pt")
        inputs = inputs.to(self._model.device, self._model.dtype)

        def write(tokens: int) -> None:
            self._model.generate(
                **inputs, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False
            )

        first, some, one = Timing(), Timing(), Timing()
        self._time(first, 1, lambda: write(1))
        self._time(some, 1, lambda: write(self.sample.tokens))
        per_token = (some.median - first.median) / (self.sample.tokens - 1)
        one.seconds = [first.median + per_token * (JSON_TOKENS - 1)]
        one.peak_bytes = some.peak_bytes
        _share(one, timings, f"{self.sample.tokens} of {JSON_TOKENS} tokens about one person")

    def _chat(self, question: str) -> str:
        chat = prompts.messages(self._settings, question)
        return str(
            self._processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        )

    def _pictures(self) -> tuple[Any, Any]:
        scene, people = self.scene(1)
        shown = prompts.show(scene.frame.image, [people[0].box], self._settings)
        first, second = (Image.fromarray(p) for p in shown.pictures)
        return first, second


def _share(one: Timing, timings: dict[int, Timing], sampled: str) -> None:
    for n, timing in timings.items():
        timing.seconds.append(one.seconds[-1] * n)
        timing.peak_bytes = max(timing.peak_bytes, one.peak_bytes)
        timing.sampled = sampled


def _decision_questions() -> dict[str, dict[str, Any]]:
    """The labels as yes/no questions, each with its definition, and the dimensions as scales."""
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


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product, measured: what a device can really do."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def data_sheet_peak(device: str) -> float | None:
    """The maker's figure for the GPU in use; None for a CPU, or a GPU that is not listed."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in MATRIX_PEAKS.items() if part in name), None)


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is in use now


def _peak(device: str) -> int:
    """Bytes: of the GPU's memory, or resident."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024
