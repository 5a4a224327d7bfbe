"""A vision-language model that is asked about every label: the recognizer the robot runs.

The model never writes prose. Each question ends where the answer would begin, and the score is
read from the next token: how much more the model likes "yes" than "no", or which of nine digits.
The other ways of asking (`SCORING`) are cheaper, and relative: they compare labels with each other.

All questions about everybody in a scene go through the model in one pass (`packing.py`) where its
family allows, see `FAMILIES`. The others are asked in batches, person by person; the answers are
the same and take many times longer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import numpy.typing as npt
import torch
import transformers as typed_transformers
from PIL import Image
from safetensors import SafetensorError
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from emotion_perception.devices import ModelError, pick_device
from emotion_perception.emotions import EMOTIC_LABELS
from emotion_perception.estimates import probability
from emotion_perception.perception import RecognizerError
from emotion_perception.recognizers import packing, prompts
from emotion_perception.settings import RecognizerSettings
from emotion_perception.values import Assessment, Box, FloatArray, Frame, Scene, Track, Vad

log = logging.getLogger(__name__)
transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

QUESTIONS_AT_ONCE = 8
"""Rows of one batch of the batched route: bounds its memory, does not change its answers."""

FAMILIES: dict[str, packing.Rule] = {
    "smolvlm": packing.line,
    "idefics3": packing.line,
    "internvl": packing.line,
    "llava_onevision": packing.line,
    "qwen2_vl": packing.mrope,
    "qwen2_5_vl": packing.mrope,
    "qwen3_vl": packing.mrope,
}
"""The families (`model_type`) that can be packed, and how they count positions.

They give packed the answers of one prompt at a time; `test_packing.py` holds them to it. Not here:

    gemma3        the tokens of a picture look at each other in both directions, and most layers
                  see a window only: each would need a mask of its own
    gemma3n, 4    as gemma3, not tried
    paligemma     the whole prompt is read in both directions: the scene notices the question
    qwen3_5       most layers are recurrent: branches would leak into each other
    lfm2_vl       convolution layers: as qwen3_5
    mllama        pictures enter by cross-attention, which has a mask of its own; not tried
    others        not tried
"""


class VlmRecognizer:
    """EMOTIC's labels and VAD by any image-text-to-text model of transformers."""

    labels = EMOTIC_LABELS

    def __init__(self, settings: RecognizerSettings) -> None:
        """Load the model from a folder or from what was fetched; never from the network.

        Raises:
            ModelError: the model is missing or unfit; the message says what to do.
        """
        self.name = f"vlm:{Path(settings.model).name}"
        self.calibration = ""
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._settings = settings
        self._processor, self._model = load(settings)
        labels, numbers = prompts.label_questions(settings), prompts.vad_questions()
        self._about_labels = len(labels)
        self._texts = [
            self._processor.apply_chat_template(
                prompts.messages(settings, question.text),
                add_generation_prompt=True,
                tokenize=False,
            )
            for question in (*labels, *numbers)
        ]
        pictures = 2 if settings.person_view == "both" else 1
        if (shown := self._texts[0].count(self._processor.image_token)) != pictures:
            raise ModelError(
                f"the chat template of {settings.model} shows {shown} of {pictures} pictures: "
                "choose another model"
            )
        self._answers = Answers(self._processor.tokenizer, (*labels, *numbers), self._texts)
        self._plan = self._packing(pictures)
        self._at_once: int | None = None
        self._prior: list[FloatArray] | None = None
        if settings.calibrate or settings.scoring == "labels":
            self._calibrate()

    def warm_up(self) -> None:
        """Assess one person of a grey picture."""
        grey = np.full((480, 640, 3), 128, np.uint8)
        person = Track("p00000", Box(160, 80, 480, 480), 1.0)
        self.assess(Scene(Frame(grey, 0, ""), (person,)), (person,))

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """One answer for each person, in their order; without scores where the box is no use.

        Raises:
            RecognizerError: the people do not fit into the memory of the device.
        """
        image, stamp_ns = scene.frame.image, scene.frame.stamp_ns
        height, width = image.shape[:2]
        visible = [p for p in people if p.box.clipped(width, height).area > 0]
        answers: dict[str, Assessment] = {}
        if visible:
            shown = prompts.show(image, [p.box for p in visible], self._settings)
            with _memory_errors(len(visible)):
                logits = self._ask(shown)
            for person, asked in zip(visible, logits, strict=True):
                scores, vad = self._read(asked)
                answers[person.person_id] = Assessment(person.person_id, stamp_ns, scores, vad)
        return [
            answers.get(p.person_id)
            or Assessment(p.person_id, stamp_ns, None, reason="outside the picture")
            for p in people
        ]

    def close(self) -> None:
        del self._model, self._processor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _packing(self, pictures: int) -> packing.Plan | None:
        """How the prompts are packed; None where they cannot be, which the log tells."""
        reason = why_not_packed(self._model, self._settings)
        if not reason:
            tokens = self._tokens(pictures)
            prompts_of_sites = [tokens[i] + list(more) for i, more in self._answers.sites]
            picture_token = self._model.config.image_token_id
            try:
                return packing.Plan.of(prompts_of_sites, picture_token, pictures)
            except ValueError as error:
                reason = str(error)
        if self._answers.in_words:
            raise ModelError(
                f"recognizer.scoring = labels needs a model that can be packed, but {reason}: "
                "set it to yes_no or letters"
            )
        log.warning("%s is asked question by question: %s", self.name, reason)
        return None

    def _calibrate(self) -> None:
        """Find out, or read from disk, what the model answers about pictures without content."""
        settings = self._settings
        key = _fingerprint(find_folder(settings.model), settings, self._texts, self._model.dtype)
        self.calibration = f"grey:{key[:8]}"
        file = cache_folder() / "calibration" / f"{key}.npy"
        try:
            logits = np.load(file)
        except (OSError, ValueError):
            grey = np.full((settings.scene_size * 3 // 4, settings.scene_size, 3), 128, np.uint8)
            box = Box(0, 0, settings.scene_size // 4, settings.scene_size // 2)
            try:
                with _memory_errors(1):
                    (logits,) = self._ask(prompts.show(grey, [box], settings))
            except RecognizerError as error:
                raise ModelError(str(error)) from error
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, logits)
            except OSError as error:
                log.warning("the calibration cannot be kept for the next start: %s", error)
        self._prior = self._answers.likings(logits)

    def _read(self, logits: FloatArray) -> tuple[FloatArray, Vad]:
        """One person's answers: the labels' probabilities, and the expectations of the digits."""
        likings = self._answers.likings(logits)
        if self._prior is not None:
            likings = [liking - prior for liking, prior in zip(likings, self._prior, strict=True)]
        scores = probability(SCORING[self._settings.scoring](likings[: self._about_labels]))
        scale = np.linspace(-1, 1, len(prompts.DIGITS))
        numbers = likings[self._about_labels :]
        return scores, Vad(*(float(_softmax(liking) @ scale) for liking in numbers))

    def _ask(self, shown: prompts.Shown) -> FloatArray:
        """(people, sites, answer tokens): the logits where each answer would begin.

        Where everybody at once does not fit into memory, half of them are asked, and later rounds
        start with so many.
        """
        if self._plan is None:
            return np.stack([self._ask_in_batches(shown, seen) for seen in shown.seen])
        answers: list[FloatArray] = []
        while len(answers) < len(shown.seen):
            start = len(answers)
            count = min(self._at_once or len(shown.seen), len(shown.seen) - start)
            try:
                answers.extend(self._ask_packed(shown.part(start, start + count), self._plan))
                continue
            except (MemoryError, RuntimeError) as error:
                if count == 1 or not _is_out_of_memory(error):
                    raise
            self._at_once = count // 2
            log.warning("%d people at once do not fit into memory: %d", count, self._at_once)
            torch.cuda.empty_cache()  # out here, where the error holds no tensors any more
        return np.stack(answers)

    @torch.inference_mode()
    def _ask_packed(self, shown: prompts.Shown, plan: packing.Plan) -> FloatArray:
        """Everything in one pass."""
        device = self._model.device
        inputs = self._processor(
            text=["\n".join([self._processor.image_token] * len(shown.pictures))],
            images=[[Image.fromarray(picture) for picture in shown.pictures]],
            return_tensors="pt",
        )
        grids = self._grids(inputs)
        tree, ends = plan.grow(grids, shown.seen, FAMILIES[self._model.config.model_type])
        inputs = inputs.to(device, self._model.dtype)
        pictures = {name: x for name, x in inputs.items() if name not in _TEXT_INPUTS}
        ids, sees, segment_of, positions, places = (
            torch.from_numpy(x).to(device)
            for x in (tree.ids, tree.sees, tree.segment_of, tree.positions, ends)
        )
        mask = packing.block_mask(sees, segment_of, torch.arange(len(tree), device=device))
        hidden = self._model.model(
            input_ids=ids[None],
            attention_mask=mask[None, None],
            position_ids=positions if len(positions) == 1 else positions[:, None],
            use_cache=False,
            **pictures,
        ).last_hidden_state[0, places.flatten()]
        head = self._model.get_output_embeddings().weight
        logits = (hidden @ head[self._answers.ids].T).float()
        if self._answers.in_words:
            totals = (hidden @ head.T).float().logsumexp(-1, keepdim=True)
            logits = torch.cat([logits, totals], -1)
        return logits.cpu().numpy().reshape(*ends.shape, -1)  # type: ignore[no-any-return]

    def _grids(self, inputs: Any) -> list[packing.Grid]:
        """The tokens of each picture, from what the processor made of a text of pictures."""
        lengths = packing.runs(inputs["input_ids"][0].tolist(), self._model.config.image_token_id)
        if "image_grid_thw" not in inputs:
            return [packing.Grid(1, length) for length in lengths]
        merge = self._processor.image_processor.merge_size
        return [
            packing.Grid(h // merge, w // merge) for _, h, w in inputs["image_grid_thw"].tolist()
        ]

    def _tokens(self, pictures: int) -> list[list[int]]:
        """The tokens of every question, with as many small pictures before it."""
        small = [Image.new("RGB", (64, 64))] * pictures
        return [self._encode([text], small)["input_ids"][0] for text in self._texts]

    def _encode(self, texts: Sequence[str], pictures: Sequence[Any], **how: Any) -> Any:
        """Questions about the same pictures, as the processor prepares them."""
        bos = self._processor.tokenizer.bos_token
        return self._processor(
            text=list(texts),
            images=[list(pictures)] * len(texts),
            add_special_tokens=not (bos and texts[0].startswith(bos)),
            **how,
        )

    @torch.inference_mode()
    def _ask_in_batches(self, shown: prompts.Shown, seen: Sequence[int]) -> FloatArray:
        """(sites, answer tokens) about one person, by the stock forward pass of any family."""
        pictures = [Image.fromarray(shown.pictures[i]) for i in seen]
        rows = []
        for start in range(0, len(self._texts), QUESTIONS_AT_ONCE):
            texts = self._texts[start : start + QUESTIONS_AT_ONCE]
            inputs = self._encode(texts, pictures, padding=True, return_tensors="pt")
            inputs = inputs.to(self._model.device, self._model.dtype)
            out = self._model(**inputs, use_cache=False, logits_to_keep=1)
            rows.append(out.logits[:, -1, self._answers.ids].float().cpu().numpy())
        return np.concatenate(rows)


_TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def why_not_packed(model: Any, settings: RecognizerSettings) -> str:
    """The reason why a model has to be asked question by question; empty: it can be packed."""
    if model.config.model_type not in FAMILIES:
        return f"the family {model.config.model_type} is not known to give the same answers packed"
    if (how := model.config.get_text_config()._attn_implementation) != "sdpa":
        return f"attention by {how} does not take a mask of its own"
    if model.config.model_type == "llava_onevision" and settings.person_view != "both":
        return "LLaVA-OneVision cuts a picture that is alone into tiles, and one of several not"
    return ""


class Answers:
    """Where in the model's output the answers to a set of questions are found.

    An answer is one token, spelled in several ways, at the end of its question; or, where the
    question is to be answered in words, the tokens of the words, each at the end of those before.
    """

    def __init__(
        self, tokenizer: Any, questions: Sequence[prompts.Question], texts: Sequence[str]
    ) -> None:
        """
        Args:
            texts: each question within its chat, up to where the answer would begin.

        Raises:
            ModelError: the tokenizer has no single token for an answer.
        """
        self.sites: list[tuple[int, tuple[int, ...]]] = [(i, ()) for i in range(len(questions))]
        """The places that are read: the number of a question, and the tokens that follow it."""
        self.ids: list[int] = []
        """The tokens that are read there."""
        self.in_words = any(question.in_words for question in questions)
        self._terms = [
            [
                self._locate(tokenizer, i, question.in_words, texts[i], word)
                for word in question.answers
            ]
            for i, question in enumerate(questions)
        ]

    def likings(self, logits: FloatArray) -> list[FloatArray]:
        """For each question the log-likelihoods of its answers, up to a common constant.

        Spellings of a word count together; of several tokens the mean counts, since otherwise
        a long answer would look unlikely for being long.

        Args:
            logits: (sites, tokens), with the logarithm of the sum over all tokens as a last
                column where there are answers in words.
        """
        return [
            np.array(
                [np.mean([self._term(logits, *term) for term in answer]) for answer in answers]
            )
            for answers in self._terms
        ]

    def _term(self, logits: FloatArray, site: int, columns: list[int]) -> float:
        total = logits[site, len(self.ids)] if self.in_words else 0.0
        return float(np.logaddexp.reduce(logits[site, columns].astype(np.float64)) - total)

    def _locate(
        self, tokenizer: Any, question: int, in_words: bool, text: str, word: str
    ) -> list[tuple[int, list[int]]]:
        if in_words:
            tokens = _continuation(tokenizer, text, word)
            return [
                (_place(self.sites, (question, tokens[:k])), [_place(self.ids, token)])
                for k, token in enumerate(tokens)
            ]
        found = _single_tokens(tokenizer, word)
        if not found:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no single token for {word!r}, "
                "so that answers cannot be scored: choose another model"
            )
        return [(question, [_place(self.ids, token) for token in found])]


def _place(items: list[Any], item: Any) -> int:
    """Where it stands in the list; it is put there first if it is new."""
    if item not in items:
        items.append(item)
    return items.index(item)


def _single_tokens(tokenizer: Any, word: str) -> list[int]:
    """Every token that is this word, with or without a capital and a space before it."""
    vocabulary = tokenizer.get_vocab()
    spellings = dict.fromkeys((word, word.capitalize(), word.upper()))
    # How a space is written: byte-level BPE, SentencePiece, and neither.
    return [
        vocabulary[space + spelling]
        for spelling in spellings
        for space in ("", "Ġ", "▁")
        if space + spelling in vocabulary
    ]


def _continuation(tokenizer: Any, text: str, word: str) -> tuple[int, ...]:
    """The tokens of a word that follows the text."""
    gap = "" if text[-1:].isspace() else " "
    before, after = (
        tokenizer(x, add_special_tokens=False)["input_ids"] for x in (text, text + gap + word)
    )
    if after[: len(before)] != before:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} does not keep {word!r} apart from the "
            "question: set recognizer.scoring to yes_no"
        )
    return tuple(after[len(before) :])


def _against_no(likings: Sequence[FloatArray]) -> FloatArray:
    """(labels,) log-odds of yes against no."""
    return np.array([yes - no for yes, no in likings])


def _against_the_others(likings: Sequence[FloatArray]) -> FloatArray:
    """(labels,) log-odds against the average of the other labels."""
    (likings_of_labels,) = likings
    others = len(likings_of_labels) - 1
    return np.array(
        [
            liking - np.logaddexp.reduce(np.delete(likings_of_labels, i)) + np.log(others)
            for i, liking in enumerate(likings_of_labels)
        ]
    )


SCORING: dict[str, Callable[[Sequence[FloatArray]], FloatArray]] = {
    "yes_no": _against_no,
    "letters": _against_the_others,
    "labels": _against_the_others,
}
"""How the log-odds of the labels follow from the answers to `prompts.label_questions`."""


def cache_folder() -> Path:
    """Where what was computed once is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "emotion_perception"


def _fingerprint(
    folder: Path, settings: RecognizerSettings, texts: Sequence[str], dtype: torch.dtype
) -> str:
    """Changes with everything that the answer about a given picture depends on."""
    weights = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.glob("*.safetensors"))
    ]
    sizes = (settings.scene_size, settings.crop_size)
    versions = (torch.__version__, transformers.__version__)
    all_of_it = (str(folder.resolve()), weights, sizes, list(texts), settings.scoring, str(dtype))
    return hashlib.sha256(repr((all_of_it, versions)).encode()).hexdigest()


def _softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()  # type: ignore[no-any-return]


@contextmanager
def _memory_errors(people: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise RecognizerError(
            f"not enough memory to ask about {people} people at once: lower scheduler.max_people, "
            "recognizer.scene_size or recognizer.crop_size, or choose a smaller model"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    # A CPU has no error class of its own for this.
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        w in str(error) for w in words
    )


def load(settings: RecognizerSettings) -> tuple[Any, Any]:
    """Processor and model of transformers, ready to answer on the device of the settings.

    Raises:
        ModelError: the model is missing or unfit; the message says what to do.
    """
    device = pick_device(settings.device)
    folder = find_folder(settings.model)
    _check_folder(settings.model, folder)
    processor = _load_processor(settings, folder)
    dtype = settings.dtype
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    try:
        model, report = transformers.AutoModelForImageTextToText.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise ModelError(
                f"the weights of {settings.model} lack {len(missing)} tensors of "
                f"{type(model).__name__} ({missing[0]}, ...): {_fetch(settings.model)}"
            )
        model = model.to(device).eval()
    except (MemoryError, RuntimeError, OSError, ValueError, ImportError, SafetensorError) as error:
        if _is_out_of_memory(error):
            raise ModelError(
                f"not enough memory for {settings.model} on {device} in {dtype}: choose a smaller "
                "recognizer.model, a 16-bit recognizer.dtype or another recognizer.device"
            ) from error
        raise ModelError(
            f"{settings.model} cannot be loaded ({_first_line(error)}): {_fetch(settings.model)}"
        ) from error
    return processor, model


def find_folder(name: str) -> Path:
    """The folder of a model: the one named, or where a fetched model of that hub name lies.

    Raises:
        ModelError: there is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ModelError(
            f"there is no folder {name!r}: recognizer.model is the folder of a model, or a hub "
            "name like Qwen/Qwen3-VL-2B-Instruct"
        )
    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name} is not on this computer: {_fetch(name)}") from error


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no model (no config.json): {_fetch(name)}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the config.json of {name} is not one that transformers {transformers.__version__} "
            f"knows without running code of the model's own ({_first_line(error)}): choose "
            "another model"
        ) from error
    if config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelError(
            f"{name} is a model of type {config.model_type}, which does not answer questions "
            "about pictures: choose an image-text-to-text model, such as "
            "Qwen/Qwen3-VL-2B-Instruct"
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no weights as safetensors (other formats can run code): {_fetch(name)}"
        )


def _load_processor(settings: RecognizerSettings, folder: Path) -> Any:
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ModelError(
            f"{settings.model} has no usable processor ({_first_line(error)}): "
            f"{_fetch(settings.model)}"
        ) from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(
            f"{settings.model} has no processor for pictures (preprocessor_config.json): "
            f"{_fetch(settings.model)}"
        )
    if not processor.chat_template:
        raise ModelError(
            f"{settings.model} has no chat template, so it cannot be asked questions: choose an "
            "instruction-tuned model"
        )
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"  # the answer is read at the last place of every row
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    _hold_size(processor.image_processor, max(settings.scene_size, settings.crop_size))
    return processor


def _hold_size(image_processor: Any, size: int) -> None:
    """Let pictures of up to `size` pixels through as they are: one tile each, not enlarged."""
    for tiling in ("do_image_splitting", "crop_to_patches", "do_pan_and_scan"):
        if hasattr(image_processor, tiling):
            setattr(image_processor, tiling, False)
    if hasattr(image_processor, "max_image_size"):  # SmolVLM, Idefics3: one square tile
        image_processor.size = image_processor.max_image_size
    elif hasattr(image_processor, "merge_size"):  # Qwen: its edges are areas, in pixels
        least = (image_processor.patch_size * image_processor.merge_size) ** 2
        image_processor.size = {"shortest_edge": least, "longest_edge": max(size**2, least)}


def _fetch(name: str) -> str:
    return (
        "give another folder, or fetch a model with `emotion-perception fetch NAME`"
        if Path(name).expanduser().is_dir()
        else f"fetch it with `emotion-perception fetch {name}`"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
