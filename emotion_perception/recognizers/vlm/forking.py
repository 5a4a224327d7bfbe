"""Ask a model that cannot be packed: read what prompts share once, and fork its cache per question.

    scene part ──► cache ─┬─ fork ──► person part ──► cache ─┬─ fork ──► endings, a row per question
                          │                                  └─ fork ──► ...
                          └─ fork ──► next person ──► ...

The cache holds all that later tokens need: keys and values, and the states of recurrent and
convolution layers. A fork continues it and leaves it as it was, so each image is encoded once, and
the answers are those to one prompt at a time. Rows of one batch have endings of the same length,
because padding would enter recurrent states.

Whether this holds for a model is tried when it is loaded (`ForkedPrompts.of`). It does not where a
prompt is read in both directions (PaliGemma), or a cache is of an unknown kind.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.values import Box, FloatArray
from emotion_perception.recognizers.vlm import loading, packing, prompts

QUESTIONS_PER_BATCH = 8
"""Rows of one batch: bounds its memory, does not change its answers."""

_LAYERS = (
    *("DynamicLayer", "DynamicSlidingWindowLayer", "LinearAttentionLayer"),
    *("LinearAttentionAndFullAttentionLayer", "DummyLayer"),
)
"""Layers of a cache that hold `keys`, `values` and dictionaries of states, or nothing."""

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""Largest difference to the stock answer log-probabilities; of other types `_ROUNDING`."""

_ROUNDING = 0.5

_PER_TOKEN = ("input_ids", "inputs_embeds", "mm_token_type_ids", "token_type_ids")


class Prefix(NamedTuple):
    """What a model has read."""

    cache: Any
    """Of transformers; None: nothing yet."""
    position: int
    """The position of the next token."""


class ForkedPrompts:
    """The prompts of a model as parts that are read one after the other, and endings."""

    def __init__(self, vlm: Any, share_scene: bool) -> None:
        """Divide the prompts.

        Args:
            vlm: the `VlmModel`, with its questions.
            share_scene: read what precedes a person's own image once for all people.

        Raises:
            ValueError: they cannot be divided.
        """
        self._vlm = vlm
        texts, sites = vlm.texts, vlm.answers.sites
        tokens = [vlm.tokens(text) for text in texts]
        rows = [[*tokens[i], *more] for i, more in sites]
        shared = min(packing.common_prefix_length(rows), min(map(len, rows)) - 1)
        image_token = vlm.model.config.image_token_id
        if any(image_token in row[shared:] for row in rows):
            raise ValueError("an image comes after the words in which the prompts differ")
        self._endings = [row[shared:] for row in rows]
        self._ending_of_text = len(tokens[0]) - shared
        """Tokens of the last part that belong to the ending of the first question."""
        cut = texts[0].rindex(vlm.processor.image_token) if share_scene else 0
        self._parts = texts[0][:cut], texts[0][cut:]
        first, last = self._parts
        if cut and vlm.tokens(first) + vlm.tokens(last, add_special_tokens=False) != tokens[0]:
            raise ValueError("the parts of a prompt have other tokens than the whole")

    @classmethod
    def of(cls, vlm: Any) -> tuple[ForkedPrompts | None, str]:
        """Return the forked prompts of a model, or None and why its cache cannot be forked.

        The way is tried on a random image, first with the scene shared between people.
        """
        reason = ""
        for share_scene in (True, False):
            try:
                forked = cls(vlm, share_scene)
                reason = forked._why_not_exact()
            except (ValueError, TypeError, AttributeError, RuntimeError, RecognizerError) as error:
                if loading.is_out_of_memory(error):
                    raise
                reason = next(iter(str(error).splitlines()), type(error).__name__)
            if not reason:
                return forked, ""
        return None, reason

    @torch.inference_mode()
    def answer_logits(self, prompt_images: prompts.PromptImages) -> FloatArray:
        """Return the logits where each answer begins, (people, sites, answer tokens)."""
        scene = Prefix(None, 0)
        shared_text, text = self._parts
        logits = []
        for person in range(len(prompt_images.person_images)):
            images = prompt_images.of_person(person)
            if shared_text:
                if scene.cache is None:
                    scene = self._read(scene, shared_text, images[:-1])
                images = images[-1:]
            prefix = self._read(_fork(scene, 1), text, images, self._ending_of_text)
            logits.append(self._ending_logits(prefix))
        return np.stack(logits)

    def _read(self, prefix: Prefix, text: str, images: Sequence[Any], without: int = 0) -> Prefix:
        """Return the prefix with one more part; its last tokens, this many, are left out."""
        inputs = self._vlm.inputs([text], images, add_special_tokens=prefix.cache is None)
        length = inputs["attention_mask"].shape[1] - without
        inputs = {
            name: x[:, :length] if name in _PER_TOKEN else x
            for name, x in inputs.items()
            if name != "attention_mask"
        }
        loading.check_length(self._vlm.model, prefix.position + length)
        positions = self._positions(prefix, length, inputs)
        output = self._vlm.model(
            **inputs, **positions, past_key_values=prefix.cache, use_cache=True, logits_to_keep=1
        )
        places = positions.get("position_ids")
        position = prefix.position + length if places is None else int(places.max()) + 1
        return Prefix(output.past_key_values, position)

    def _ending_logits(self, prefix: Prefix) -> FloatArray:
        """Return the logits (sites, answer tokens) of all endings."""
        vlm, answers = self._vlm, self._vlm.answers
        rows: dict[int, torch.Tensor] = {}
        for batch in self._batches():
            ids = torch.tensor([self._endings[i] for i in batch], device=vlm.model.device)
            length = ids.shape[1]
            loading.check_length(vlm.model, prefix.position + length)
            output = vlm.model(
                input_ids=ids,
                **self._positions(prefix, length, {}),
                past_key_values=_fork(prefix, len(batch)).cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = output.logits[:, -1].float()
            read = logits[:, answers.ids]
            if answers.in_words:
                read = torch.cat([read, logits.logsumexp(-1, keepdim=True)], 1)
            rows.update(zip(batch, read.cpu(), strict=True))
        return torch.stack([rows[i] for i in range(len(self._endings))]).numpy()

    def _batches(self) -> Iterator[list[int]]:
        """Yield the indices of endings of one length, at most `QUESTIONS_PER_BATCH`."""
        by_length: dict[int, list[int]] = {}
        for i, ending in enumerate(self._endings):
            by_length.setdefault(len(ending), []).append(i)
        for indices in by_length.values():
            for start in range(0, len(indices), QUESTIONS_PER_BATCH):
                yield indices[start : start + QUESTIONS_PER_BATCH]

    def _positions(self, prefix: Prefix, length: int, inputs: Any) -> dict[str, torch.Tensor]:
        """Return the positions of a model that numbers image tokens on three axes, else nothing.

        Other models count the tokens of the cache.
        """
        inner = self._vlm.model.model
        if not hasattr(inner, "get_rope_index"):
            return {}
        if "image_grid_thw" not in inputs:
            places = torch.arange(length, device=self._vlm.model.device).expand(3, 1, -1)
        else:
            names = ("input_ids", "image_grid_thw", "mm_token_type_ids")
            places = inner.get_rope_index(**{n: inputs[n] for n in names if n in inputs})[0]
        return {"position_ids": places + prefix.position}

    def _why_not_exact(self) -> str:
        """Return why forked answers differ from those of the stock forward pass; empty if not.

        The answer to the last question about the second of two people is compared: what other
        branches leave behind in a cache would change it.
        """
        vlm, settings = self._vlm, self._vlm.settings
        size = settings.scene_size
        pixels = np.random.default_rng(0).integers(0, 256, (size * 3 // 4, size, 3), np.uint8)
        boxes = [Box(0, 0, size // 3, size // 2), Box(size // 2, 0, size, size // 2)]
        prompt_images = prompts.make_prompt_images(pixels, boxes, settings)
        question = len(vlm.texts) - 1
        forked = self.answer_logits(prompt_images)[1, question, : len(vlm.answers.ids)]
        prompt = vlm.inputs(vlm.texts[question:], prompt_images.of_person(1))
        other = dict(prompt)  # with another last word
        if "inputs_embeds" in prompt:
            other["inputs_embeds"] = prompt["inputs_embeds"].clone()
            other["inputs_embeds"][:, -1] *= -1
        else:
            other["input_ids"] = prompt["input_ids"].clone()
            word, another = vlm.answers.ids[:2]
            other["input_ids"][:, -1] = another if prompt["input_ids"][0, -1] == word else word
        with torch.inference_mode():
            stock, changed = (
                vlm.model(**x, use_cache=False, output_hidden_states=True, logits_to_keep=1)
                for x in (prompt, other)
            )
        last, changed_last = (x.hidden_states[-1][:, :-1] for x in (stock, changed))
        if not torch.allclose(last, changed_last, rtol=1e-3, atol=1e-3):
            return "the states of a prompt depend on the words after them"
        difference = forked - stock.logits[0, -1, vlm.answers.ids].float().cpu().numpy()
        deviation = float(np.abs(difference - difference.mean()).max())
        if not deviation < _TOLERANCE.get(vlm.model.dtype, _ROUNDING):
            return f"the answers from its cache differ by {deviation:.2g} (log-probability)"
        return ""


def _fork(prefix: Prefix, rows: int) -> Prefix:
    """Return a prefix in several rows that can be continued; the original stays as it is.

    Raises:
        ValueError: the cache is of an unknown kind.
    """
    if prefix.cache is None:
        return prefix
    forked = copy.copy(prefix.cache)
    forked.layers = [_fork_layer(layer, rows) for layer in prefix.cache.layers]
    return Prefix(forked, prefix.position)


def _fork_layer(layer: Any, rows: int) -> Any:
    if type(layer).__name__ not in _LAYERS:
        raise ValueError(f"it keeps a cache of type {type(layer).__name__}")
    forked = copy.copy(layer)
    for name, value in vars(layer).items():
        if name in ("keys", "values") and value is not None:
            # The next tokens are appended to a copy, so these may share their memory.
            setattr(forked, name, value.expand(rows, *value.shape[1:]))
        elif isinstance(value, dict):  # states of recurrent layers, which are written in place
            copies = {
                i: x.repeat(rows, *[1] * (x.ndim - 1)) if isinstance(x, torch.Tensor) else x
                for i, x in value.items()
            }
            setattr(forked, name, copies)
    return forked
