"""Assess people from text with a language model: the second half of captioning systems.

The first half is a `CaptionSource`, which writes one caption per person. This recognizer asks the
questions of `vlm` without images: it scores the same answers and packs its questions into the
same tree, because all prompts of one scene begin with the same label definitions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from emotion_perception.core import documents
from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import LlmSettings, TextSettings
from emotion_perception.core.values import Assessment, FloatArray, Scene, Track
from emotion_perception.recognizers.base import assess_visible, grey_scene
from emotion_perception.recognizers.vlm import attention, chat, loading, packing, prompts, scoring

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose packed answers equal those of single prompts (see `test_llm.py`);
other families are asked in batches."""

QUESTIONS_AT_ONCE = 16
"""Rows per batch of the batched route; it limits the memory and does not change the results."""


class CaptionSource(Protocol):
    """A source of captions of people."""

    name: str

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """Return one caption per person, in order.

        Raises:
            RecognizerError: There is no caption this time.
        """
        ...

    def close(self) -> None:
        """Release the memory of the model."""
        ...


class CaptionFile:
    """Captions from a CSV file with the columns `key` and `caption`.

    The key is the id of a person; in a data set it is the name of the image file with the number
    of the person, `mscoco/COCO_val2014_000000562243_0.jpg`.
    """

    name = ""

    def __init__(self, settings: LlmSettings) -> None:
        """Read the file.

        Raises:
            ModelError: No file is set, or the file is not valid.
        """
        if not settings.captions:
            raise ModelError(
                "the llm recognizer reads captions: set recognizer.captions to a CSV file with the "
                "columns key and caption, or create one with the systems narracap or caption"
            )
        self._file = Path(settings.captions)
        try:
            rows = [r for _, r in documents.read_csv(self._file, ("key", "caption"))]
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot read recognizer.captions: {self._file}: {error}; it needs the columns key "
                "and caption, and a row for each person"
            ) from error
        self._captions = {row["key"]: row["caption"] for row in rows}
        if len(self._captions) < len(rows):
            counts = Counter(row["key"] for row in rows)
            duplicate = next(key for key, count in counts.items() if count > 1)
            raise ModelError(f"{self._file} has more than one caption of {duplicate!r}: keep one")

    def check(self, keys: Sequence[str]) -> None:
        """Check that the file has a caption for each key.

        Raises:
            ModelError: A person has no caption.
        """
        if missing := [key for key in keys if key not in self._captions]:
            examples = ", ".join(map(repr, missing[:3]))
            raise ModelError(
                f"{self._file} has no caption of {len(missing)} of {len(keys)} people ({examples}"
                f"{', ...' if len(missing) > 3 else ''}): add a row for each, empty if need be"
            )

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """Return the caption of each person, in order.

        Raises:
            RecognizerError: A person has no caption.
        """
        missing = [p.person_id for p in people if p.person_id not in self._captions]
        if missing:
            raise RecognizerError(f"{self._file} has no caption of {missing[0]!r}")
        return [self._captions[p.person_id] for p in people]

    def close(self) -> None:
        """Do nothing."""


class LlmRecognizer:
    """Scores of the EMOTIC labels and VAD from a causal chat model that reads captions."""

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: TextSettings, caption_source: CaptionSource) -> None:
        """Load the model from a folder or from the fetched models, never from the network.

        Raises:
            ModelError: The model is missing or unsuitable.
        """
        self.name = "+".join(
            filter(
                None,
                (
                    caption_source.name,
                    f"llm:{loading.display_name(settings.text_model, settings.adapter)}",
                ),
            )
        )
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._settings = settings
        self._caption_source = caption_source
        if settings.scoring == "head":
            raise ModelError("recognizer.scoring = head works with vlm only: set it to yes_no")
        self.tokenizer, self.model = loading.load_text_model(settings)
        self._questions = prompts.questions(settings)
        texts = [self._prompt("", question) for question in self._questions]
        for text in texts[:1]:
            chat.check_scoring(text, settings.text_model)
        self._answers = scoring.AnswerTokens(self.tokenizer, self._questions, texts)
        reason = why_not_packed(self.model)
        self._packed = not reason
        if reason and self._answers.in_words:
            raise ModelError(
                f"recognizer.scoring = labels needs a model that can be packed, but {reason}: set "
                "it to yes_no or letters"
            )

    def warm_up(self) -> None:
        """Assess one person in a grey image, unless the captions come from a file."""
        if isinstance(self._caption_source, CaptionFile):
            return
        scene = grey_scene()
        self.assess(scene, scene.people)

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return one assessment per person, in order; the rationale is the caption.

        Raises:
            RecognizerError: A person has no caption, or the device has too little memory.
        """

        def assess_batch(visible: Sequence[Track]) -> list[Assessment]:
            with loading.memory_errors(len(visible)):
                captions = self._caption_source.describe(scene, visible)
                return self._assess(visible, scene.frame.stamp_ns, captions)

        return assess_visible(scene, people, assess_batch)

    def close(self) -> None:
        """Release the memory of both models."""
        self._caption_source.close()
        del self.model, self.tokenizer
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _assess(
        self, people: Sequence[Track], stamp_ns: int, captions: Sequence[str]
    ) -> list[Assessment]:
        if self._settings.scoring == "generate":
            return [
                scoring.assessment_from_text(p.person_id, stamp_ns, self._write(caption))
                for p, caption in zip(people, captions, strict=True)
            ]
        ask = self.packed_logits if self._packed else self.batched_logits
        assessments = []
        for person, caption, logits in zip(people, captions, ask(captions), strict=True):
            if not np.isfinite(logits).all():
                reason = scoring.not_finite(str(self.model.dtype).removeprefix("torch."))
                assessments.append(Assessment(person.person_id, stamp_ns, None, reason=reason))
                continue
            scores, vad = scoring.scores_and_vad(
                self._answers.answer_logprobs(logits), self._settings.scoring
            )
            assessments.append(Assessment(person.person_id, stamp_ns, scores, vad, caption or None))
        return assessments

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """Return the caption of each person, in order.

        Raises:
            RecognizerError: There is no caption this time.
        """
        return self._caption_source.describe(scene, people)

    def answer_logprobs(self, captions: Sequence[str]) -> list[torch.Tensor]:
        """Return the answer log-probabilities of each question, (people, answers).

        One pass covers all people and keeps gradients.

        Raises:
            ValueError: The model cannot be packed.
        """
        if not self._packed:
            raise ValueError(f"{self.name} cannot be packed, so it cannot be trained on scores")
        return self._answers.answer_logprobs_with_gradients(self._forward(captions))

    @torch.inference_mode()
    def packed_logits(self, captions: Sequence[str]) -> FloatArray:
        """Return (people, sites, answer tokens) logits at the start of each answer, in one pass."""
        return self._forward(captions).cpu().numpy()

    def _forward(self, captions: Sequence[str]) -> torch.Tensor:
        branches, ends = packing.merge_prompts(
            [ids for caption in captions for ids in self._ids(caption)]
        )
        tree = packing.Tree(image_token=-1, rule=packing.linear_positions)
        for branch in branches:
            tree.add(np.asarray(branch.ids), branch.parent)
        places = [tree.segments[end].end - 1 for end in ends]
        loading.check_length(self.model, int(tree.positions.max()) + 1)
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
    def batched_logits(self, captions: Sequence[str]) -> FloatArray:
        """Return the result of `packed_logits` from the stock forward pass, one prompt per row."""
        prompts_of_all = [ids for caption in captions for ids in self._ids(caption)]
        rows = []
        for start in range(0, len(prompts_of_all), QUESTIONS_AT_ONCE):
            batch = {"input_ids": prompts_of_all[start : start + QUESTIONS_AT_ONCE]}
            inputs = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
            loading.check_length(self.model, inputs["input_ids"].shape[1])
            out = self.model(**inputs, use_cache=False, logits_to_keep=1)
            rows.append(out.logits[:, -1, self._answers.ids].float().cpu().numpy())
        return np.concatenate(rows).reshape(len(captions), len(self._answers.sites), -1)

    def _ids(self, caption: str) -> list[list[int]]:
        """Return the tokens before each place where an answer is read."""
        texts = [self._prompt(caption, question) for question in self._questions]
        ids = [self._encode(text) for text in texts]
        return [ids[number] + list(more) for number, more in self._answers.sites]

    def _encode(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]  # type: ignore[no-any-return]

    def _prompt(self, caption: str, question: prompts.Question) -> str:
        """Return the chat up to the place where the answer is read."""
        return scoring.with_continuation(self.chat(caption, question.text), question.answer_prefix)

    def chat(self, caption: str, question: str) -> str:
        """Return the chat with a question about a caption, up to the start of the answer."""
        for token in self.tokenizer.all_special_tokens:  # captions are untrusted text
            caption = caption.replace(token, "")
        messages = prompts.text_messages(self._settings, caption, question)
        return chat.render(self.tokenizer, messages, self._settings.text_model)

    def inputs(self, texts: Sequence[str]) -> Any:
        """Return the keyword arguments of the model for these texts, one per row."""
        batch = {"input_ids": [self._encode(text) for text in texts]}
        return self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)

    @torch.inference_mode()
    def _write(self, caption: str) -> str:
        prompt = self.chat(caption, prompts.generation_prompt(self._settings))
        text = loading.generate_text(
            self.model, self.tokenizer, self.inputs([prompt]), prompts.MAX_ANSWER_TOKENS
        )
        return chat.open_thoughts(prompt) + text


def why_not_packed(model: Any) -> str:
    """Return why a model cannot be packed; empty if it can."""
    config = model.config
    if config.model_type not in FAMILIES:
        return f"packed answers of the family {config.model_type} are not tested"
    if config._attn_implementation != "sdpa":
        return f"the attention {config._attn_implementation} does not accept a custom mask"
    return attention.why_not_attention_only(model)
