"""Assess people from text with a language model: the second half of captioning systems.

The first half is a `CaptionSource`, which writes one caption per person. This recognizer asks the
questions of `vlm` without images: it scores the same answers and packs its questions into the
same tree, because all prompts of one scene begin with the same label definitions.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Frame, Scene, Track
from emotion_perception.recognizers.base import assess_visible
from emotion_perception.recognizers.vlm import attention, loading, packing, prompts, scoring

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""The families (`model_type`) that answer packed as they do one prompt at a time, see
`test_llm.py`; others are asked in batches."""

QUESTIONS_AT_ONCE = 16
"""Rows of one batch of the batched route: bounds its memory, does not change its answers."""


class CaptionSource(Protocol):
    """What puts people into words."""

    name: str

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """What is seen of these people and around them, one description each, in their order.

        Raises:
            RecognizerError: there is no description this time.
        """
        ...

    def close(self) -> None:
        """Give back the memory of the model."""
        ...


class CaptionFile:
    """Descriptions that somebody wrote before: a CSV file with the columns `key` and `caption`.

    The key is a person's id: in a data set the name of their picture with their number,
    `mscoco/COCO_val2014_000000562243_0.jpg`.
    """

    name = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """
        Raises:
            ModelError: no file is given, or it is no such file.
        """
        if not settings.captions:
            raise ModelError(
                "the llm recognizer reads descriptions: set recognizer.captions to a CSV file "
                "with the columns key and caption, or let narracap or caption write them"
            )
        self._file = Path(settings.captions)
        try:
            with self._file.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if not {"key", "caption"} <= set(reader.fieldnames or ()):
                    raise ModelError(f"{self._file} needs the columns key and caption in line 1")
                rows = [(row["key"], row["caption"] or "") for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ModelError(f"recognizer.captions cannot be read: {error}") from error
        self._captions = dict(rows)
        if len(self._captions) < len(rows):
            twice = next(k for i, (k, _) in enumerate(rows) if k in dict(rows[:i]))
            raise ModelError(f"{self._file} has more than one caption of {twice!r}: keep one")

    def check(self, keys: Sequence[str]) -> None:
        """
        Raises:
            ModelError: somebody has no caption.
        """
        if missing := [key for key in keys if key not in self._captions]:
            some = ", ".join(map(repr, missing[:3]))
            raise ModelError(
                f"{self._file} has no caption of {len(missing)} of {len(keys)} people ({some}"
                f"{', ...' if len(missing) > 3 else ''}): add a row for each, empty if need be"
            )

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        missing = [p.person_id for p in people if p.person_id not in self._captions]
        if missing:
            raise RecognizerError(f"{self._file} has no caption of {missing[0]!r}")
        return [self._captions[p.person_id] for p in people]

    def close(self) -> None:
        pass


class LlmRecognizer:
    """EMOTIC's labels and VAD by any causal model of transformers that was taught to chat."""

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: RecognizerSettings, describer: CaptionSource) -> None:
        """Load the model from a folder or from what was fetched; never from the network.

        Raises:
            ModelError: the model is missing or unfit; the message says what to do.
        """
        self.name = "+".join(
            filter(
                None,
                (describer.name, f"llm:{loading.named(settings.text_model, settings.adapter)}"),
            )
        )
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._settings = settings
        self._describer = describer
        if settings.scoring == "head":
            raise ModelError("recognizer.scoring = head is for vlm only: set it to yes_no")
        self.tokenizer, self.model = loading.load_text(settings)
        self._questions = prompts.questions(settings)
        texts = [self._prompt("", question) for question in self._questions]
        self._answers = scoring.Answers(self.tokenizer, self._questions, texts)
        reason = why_not_packed(self.model)
        self._packed = not reason
        if reason and self._answers.in_words:
            raise ModelError(
                f"recognizer.scoring = labels needs a model that can be packed, but {reason}: set "
                "it to yes_no or letters"
            )

    def warm_up(self) -> None:
        """Describe and judge somebody in a grey picture, unless the descriptions are written."""
        if isinstance(self._describer, CaptionFile):
            return
        grey = np.full((480, 640, 3), 128, np.uint8)
        person = Track("p00000", Box(160, 80, 480, 480), 1.0)
        self.assess(Scene(Frame(grey, 0, ""), (person,)), (person,))

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """One answer for each person, in their order; the rationale is what was read about them.

        Raises:
            RecognizerError: somebody has no description, or the memory does not suffice.
        """

        def judge(visible: Sequence[Track]) -> list[Assessment]:
            with loading.memory_errors(len(visible)):
                captions = self._describer.describe(scene, visible)
                return self._judge(visible, scene.frame.stamp_ns, captions)

        return assess_visible(scene, people, judge)

    def close(self) -> None:
        self._describer.close()
        del self.model, self.tokenizer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _judge(
        self, people: Sequence[Track], stamp_ns: int, captions: Sequence[str]
    ) -> list[Assessment]:
        if self._settings.scoring == "generate":
            return [
                scoring.assessment_of_words(p.person_id, stamp_ns, self._write(caption))
                for p, caption in zip(people, captions, strict=True)
            ]
        ask = self.ask_packed if self._packed else self.ask_in_batches
        answers = []
        for person, caption, logits in zip(people, captions, ask(captions), strict=True):
            scores, vad = scoring.read(self._answers.likings(logits), self._settings.scoring)
            answers.append(Assessment(person.person_id, stamp_ns, scores, vad, caption or None))
        return answers

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """What it reads about these people, in their order.

        Raises:
            RecognizerError: there is no description this time.
        """
        return self._describer.describe(scene, people)

    def logits(self, captions: Sequence[str]) -> list[torch.Tensor]:
        """For each question (people, answers): how much the model likes each answer, everybody in
        one pass, with gradients. What `assess` reads its scores from.

        Raises:
            ValueError: the model cannot be packed.
        """
        if not self._packed:
            raise ValueError(f"{self.name} cannot be packed, so it cannot be trained on scores")
        return self._answers.likings_with_gradients(self._forward(captions))

    @torch.inference_mode()
    def ask_packed(self, captions: Sequence[str]) -> FloatArray:
        """(people, sites, answer tokens): the logits where each answer would begin, in one pass."""
        return self._forward(captions).cpu().numpy()

    def _forward(self, captions: Sequence[str]) -> torch.Tensor:
        branches, ends = packing.merge([ids for caption in captions for ids in self._ids(caption)])
        tree = packing.Tree(picture_token=-1, rule=packing.line)
        for branch in branches:
            tree.add(np.asarray(branch.ids), branch.parent)
        places = [tree.segments[end].end - 1 for end in ends]
        ids, positions = (
            torch.from_numpy(x).to(self.model.device) for x in (tree.ids, tree.positions)
        )
        with attention.packed_attention(self.model, tree, self.model.device.type == "cpu") as mask:
            hidden = self.model.model(
                input_ids=ids[None], attention_mask=mask, position_ids=positions, use_cache=False
            ).last_hidden_state[0, places]
        head = self.model.get_output_embeddings().weight
        logits = attention.answer_logits(hidden, head, self._answers.ids, self._answers.in_words)
        return logits.reshape(len(captions), len(self._answers.sites), -1)

    @torch.inference_mode()
    def ask_in_batches(self, captions: Sequence[str]) -> FloatArray:
        """As `ask_packed`, by the stock forward pass of any family, one prompt a row."""
        prompts_of_all = [ids for caption in captions for ids in self._ids(caption)]
        rows = []
        for start in range(0, len(prompts_of_all), QUESTIONS_AT_ONCE):
            batch = {"input_ids": prompts_of_all[start : start + QUESTIONS_AT_ONCE]}
            inputs = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
            out = self.model(**inputs, use_cache=False, logits_to_keep=1)
            rows.append(out.logits[:, -1, self._answers.ids].float().cpu().numpy())
        return np.concatenate(rows).reshape(len(captions), len(self._answers.sites), -1)

    def _ids(self, caption: str) -> list[list[int]]:
        """The tokens before each place where an answer is read."""
        texts = [self._prompt(caption, question) for question in self._questions]
        ids = [self._encode(text) for text in texts]
        return [ids[number] + list(more) for number, more in self._answers.sites]

    def _encode(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]  # type: ignore[no-any-return]

    def _prompt(self, caption: str, question: prompts.Question) -> str:
        """The chat up to where the answer is read."""
        return scoring.continued(self._chat(caption, question.text), question.begun)

    def _chat(self, caption: str, question: str) -> str:
        for token in self.tokenizer.all_special_tokens:  # words of a stranger stay words
            caption = caption.replace(token, "")
        return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            prompts.text_messages(self._settings, caption, question),
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,  # models that think aloud would answer much later
        )

    @torch.inference_mode()
    def _write(self, caption: str) -> str:
        ids = self._encode(self._chat(caption, prompts.request(self._settings)))
        inputs = self.tokenizer.pad({"input_ids": [ids]}, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        return loading.write(self.model, self.tokenizer, inputs, prompts.WORDS_OF_AN_ANSWER)


def why_not_packed(model: Any) -> str:
    """The reason why a model has to be asked question by question; empty: it can be packed."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"the family {config.model_type} is not known to give the same answers packed"
    if config._attn_implementation != "sdpa":
        return f"attention by {config._attn_implementation} does not take a mask of its own"
    kinds = set(getattr(config, "layer_types", None) or ())
    windowed = config.model_type == "mistral" and config.sliding_window
    if windowed or "sliding_attention" in kinds:
        return "its layers look back through a window only"
    return ""
