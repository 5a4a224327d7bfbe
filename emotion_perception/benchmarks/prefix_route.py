"""The plain prefix cache, which is copied for each question of a batch.

    system text ──► cache ──► + scene image ──► + one person ──► 29 questions in one batch

Each shared part of the prompts is read once, as a server with a prefix cache does it, with nothing
but caches and batches of transformers. Compared with a packed pass, the keys and values of the
shared parts are copied for each question of a batch, questions are padded to the longest one, and
what only some of the questions share is read once per question.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from emotion_perception.core.values import FloatArray
from emotion_perception.recognizers.vlm import packing, prompts
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.recognizers.vlm.prefix import ConstantPrefix, PrefixCache, model_positions


class CountedRoute:
    """A route that counts the work of its last call."""

    tokens = 0
    """Tokens that were computed, padding included."""
    attended_pairs = 0.0
    """Pairs of tokens that attention computed, see `packing.Tree.attended_pairs`."""

    def reset_counts(self) -> None:
        """Begin a call."""
        self.tokens, self.attended_pairs = 0, 0.0

    def count(self, rows: int, tokens: int, context: int) -> None:
        """Record a batch whose rows of `tokens` tokens continue `context` tokens each."""
        self.tokens += rows * tokens
        self.attended_pairs += rows * tokens * (context + tokens / 2)


class PrefixCacheRoute(CountedRoute):
    """The questions of a model that can be packed, asked through a prefix cache."""

    def __init__(self, vlm: VlmModel) -> None:
        """Prepare the questions.

        Raises:
            ValueError: the model cannot be packed, so that its prompts do not share a prefix.
        """
        if vlm.plan is None:
            raise ValueError(f"cannot ask {vlm.name} through a prefix cache: it cannot be packed")
        self._vlm = vlm
        self._plan = vlm.plan
        self._questions = vlm.plan.question_tokens()
        self._prefix = ConstantPrefix()

    @torch.inference_mode()
    def logits(self, prompt_images: prompts.PromptImages, warm: bool = True) -> FloatArray:
        """Return the logits where each answer begins, (people, sites, answer tokens).

        Args:
            prompt_images: the images of the people.
            warm: keep what the last call read of the text before the first image.
        """
        vlm, plan = self._vlm, self._plan
        if not warm:
            self._prefix.clear()
        self.reset_counts()
        first_person = prompt_images.person_images[0]
        grids: list[packing.Grid] = []
        encoded = None
        if shared := [prompt_images.images[i] for i in first_person[:-1]]:
            grids, encoded = vlm.encode_images(shared)
        tree = packing.Tree(plan.image_token, vlm.position_rule)
        trunk = tree.add(packing.expand(plan.trunk, plan.image_token, grids), None, grids)
        cache = PrefixCache()
        if plan.constant_tokens:
            if self._prefix.cache is None:
                self.count(1, plan.constant_tokens, 0)
            cache = self._prefix.read(vlm.model, tree, plan.constant_tokens)
        if plan.constant_tokens < len(tree):
            cache = self._extended(cache, tree, plan.constant_tokens, encoded)
        rows = []
        for *_, own in prompt_images.person_images:
            person_tree = copy.deepcopy(tree)
            own_grids, encoded = vlm.encode_images([prompt_images.images[own]])
            ids = packing.expand(plan.person, plan.image_token, own_grids)
            person = person_tree.add(ids, trunk, own_grids)
            person_cache = self._extended(cache, person_tree, len(tree), encoded)
            rows.append(self._ask(person_cache, person_tree, person))
        return np.stack(rows)

    def _extended(
        self, cache: PrefixCache, tree: packing.Tree, start: int, encoded: Any
    ) -> PrefixCache:
        """Return a copy of the cache that also holds the tokens of the tree from `start` on."""
        cache = copy.deepcopy(cache)
        cache.complete = False
        self.count(1, len(tree) - start, start)
        device = self._vlm.model.device
        ids, positions = (
            torch.from_numpy(x).to(device) for x in (tree.ids[start:], tree.positions[:, start:])
        )
        self._vlm.model.model(
            **self._vlm.with_images(ids[None], encoded),
            position_ids=model_positions(positions),
            past_key_values=cache,
            use_cache=True,
        )
        cache.complete = True
        return cache

    def _ask(self, cache: PrefixCache, tree: packing.Tree, person: int) -> FloatArray:
        """Return the logits (sites, answer tokens) of one person, from one batch."""
        vlm = self._vlm
        longest = max(self._questions, key=len)
        segment = tree.segments[tree.add(np.asarray(longest), person)]
        positions = torch.from_numpy(tree.positions[:, segment.begin : segment.end])
        padding = vlm.processor.tokenizer.pad_token_id
        ids = torch.tensor([q + [padding] * (len(longest) - len(q)) for q in self._questions])
        batch = len(ids)
        self.count(batch, ids.shape[1], segment.begin)
        per_row = positions[:, None].expand(-1, batch, -1).to(vlm.model.device)
        states = vlm.model.model(
            input_ids=ids.to(vlm.model.device),
            position_ids=per_row[0] if len(per_row) == 1 else per_row,
            past_key_values=cache,
            use_cache=False,
        ).last_hidden_state
        ends = [len(question) - 1 for question in self._questions]
        logits = vlm.read_logits(states[range(batch), ends])
        return logits.cpu().numpy()
