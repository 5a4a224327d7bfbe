"""A prefix cache whose keys and values are shared in place: the strongest route without packing.

    system text ──► scene image ──► all people ──► all questions about all people
       (kept)         1 row          1 row each       1 row each, or their tree level by level

Each level of the prompts is one batch. Its rows attend to the keys and values of the levels above
without copying them: attention over each shared part and over the own tokens is computed
separately, and the results are merged by their log-sum-exp, as paged inference servers do it
(Juravsky et al., Hydragen, arXiv 2402.05099). Rows are padded to the longest one of their level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as typed_transformers
from transformers import DynamicCache

from emotion_perception.benchmarks.prefix_route import CountedRoute
from emotion_perception.core.values import FloatArray
from emotion_perception.recognizers.vlm import attention, packing, prompts
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.recognizers.vlm.prefix import ConstantPrefix

transformers: Any = typed_transformers  # its annotations do not match what it accepts

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer, (rows, heads, tokens, size) each."""


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """What the rows of a batch attend to before their own tokens."""

    layers: KeysAndValues
    mask: torch.Tensor | None = None
    """0 for a token, minus infinity for padding, (rows, tokens); None: no padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """The levels above a batch, and the mask of its own tokens."""

    shared: list[Level]
    """Each row of a level is shared by an equal number of consecutive rows of the batch."""
    own: Level | None
    """What each row has for itself: the same number of rows as the batch."""
    mask: torch.Tensor | None
    """Own level and own tokens, (rows, 1, tokens, own tokens of the level and tokens); None: causal
    attention without an own level."""


_context: ContextVar[Context] = ContextVar("_context")


def _attend_shared(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers calls it, (rows, heads, tokens, size)."""
    context, layer = _context.get(), module.layer_idx
    scale = kwargs.get("scaling")
    if context.own is not None:
        keys, values = context.own.layers[layer]
        key, value = torch.cat([keys, key], 2), torch.cat([values, value], 2)
    groups = query.shape[1] // key.shape[1]
    parts = [
        _flash(
            query,
            key.repeat_interleave(groups, 1),
            value.repeat_interleave(groups, 1),
            scale,
            context.mask,
        )
    ]
    for level in context.shared:
        parts.append(_attend_level(query, level, layer, scale))
    log_sums = torch.stack([log_sum for _, log_sum in parts])
    weights = log_sums.softmax(0)[..., None].to(query.dtype)
    output = sum(part * weight for (part, _), weight in zip(parts, weights, strict=True))
    assert isinstance(output, torch.Tensor)
    return output.transpose(1, 2).contiguous(), None


def _attend_level(
    query: torch.Tensor, level: Level, layer: int, scale: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to keys and values that several rows of the query share, without repeating them."""
    key, value = level.layers[layer]
    rows, heads, tokens, size = query.shape
    shared, key_heads = key.shape[:2]
    each, groups = rows // shared, heads // key_heads
    split = query.reshape(shared, each, key_heads, groups, tokens, size)
    together = split.permute(0, 2, 3, 1, 4, 5).reshape(shared, key_heads, -1, size)
    mask = None
    if level.mask is not None:
        mask = level.mask[:, None, None].expand(-1, key_heads, together.shape[2], -1)
    output, log_sum = _flash(together, key, value, scale, mask, causal=False)
    output = output.view(shared, key_heads, groups, each, tokens, size).permute(0, 3, 1, 2, 4, 5)
    log_sum = log_sum.view(shared, key_heads, groups, each, tokens).permute(0, 3, 1, 2, 4)
    return output.reshape(query.shape), log_sum.reshape(query.shape[:-1])


def _flash(
    query: Any, key: Any, value: Any, scale: float | None, mask: Any, causal: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output and the log-sum-exp of the scores; causal only without a mask."""
    output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal and mask is None, attn_mask=mask, scale=scale
    )
    return output, log_sum


transformers.AttentionInterface.register("shared_prefix", _attend_shared)


@contextmanager
def _attending(model: Any, context: Context) -> Iterator[torch.Tensor]:
    """Make the language model attend within a context; yield the mask to call it with."""
    config = attention.language_model(model).config
    stock, config._attn_implementation = config._attn_implementation, "shared_prefix"
    token = _context.set(context)
    try:
        # It has four axes, so that it is passed through unchanged; it is not read.
        yield torch.ones(1, 1, 1, 1, dtype=torch.bool, device=model.device)
    finally:
        _context.reset(token)
        config._attn_implementation = stock


class SharedPrefixRoute(CountedRoute):
    """The questions of a model that can be packed, asked level by level."""

    def __init__(self, vlm: VlmModel, leaves_share: bool) -> None:
        """Prepare the questions.

        Args:
            vlm: the model, on a CPU.
            leaves_share: read what only some questions share once per person, too; otherwise each
                question is one row.

        Raises:
            ValueError: the model cannot be packed, or its prompts share no text.
        """
        if vlm.plan is None or not len(vlm.plan.trunk):
            raise ValueError(f"cannot ask {vlm.name} through a prefix cache: nothing is shared")
        self._vlm, self._plan = vlm, vlm.plan
        if not leaves_share:
            paths = [packing.Branch(tuple(ids), None) for ids in vlm.plan.question_tokens()]
            self._plan = dataclasses.replace(vlm.plan, leaves=paths, ends=list(range(len(paths))))
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
        shared = list(prompt_images.person_images[0][:-1])
        own = [person[-1] for person in prompt_images.person_images]
        images = [prompt_images.images[i] for i in (*shared, *own)]
        order = [[*range(len(shared)), len(shared) + i] for i in range(len(own))]
        scene = vlm.encode_images(images[: len(shared)]) if shared else ([], None)
        people = vlm.encode_images(images[len(shared) :])
        tree, ends = plan.build_tree([*scene[0], *people[0]], order, vlm.position_rule)
        walk = _Walk(self, vlm, tree)
        trunk = self._trunk(walk, scene[1])
        batches = _batches(tree)
        persons = walk.run(batches[1], people[1], [trunk], None)
        leaves: list[_Read] = []
        for batch in batches[2:]:
            leaves.append(walk.run(batch, None, [trunk, persons.level], leaves))
        logits = vlm.read_logits(walk.states[torch.from_numpy(ends.flatten())])
        return logits.reshape(*ends.shape, -1).cpu().numpy()

    def _trunk(self, walk: _Walk, encoded: Any) -> Level:
        """Return the level that all people share."""
        constant, vlm, tree = self._plan.constant_tokens, self._vlm, walk.tree
        levels, empty = [], self._prefix.cache is None
        if constant:
            cache = self._prefix.read(vlm.model, tree, constant)
            levels.append(Level(_keys_and_values(cache)))
            if empty:
                self.count(1, constant, 0)
        if constant < tree.segments[0].end:
            levels.append(walk.run(_Batch([0], constant), encoded, levels[:], None).level)
        parts = [level.layers for level in levels]
        layers = [
            (torch.cat([k for k, _ in layer], 2), torch.cat([v for _, v in layer], 2))
            for layer in zip(*parts, strict=True)
        ]
        return Level(layers)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Segments of a tree at one depth, as rows."""

    segments: list[int]
    skip: int = 0
    """The first tokens of each segment, which are cached."""


def _batches(tree: packing.Tree) -> list[_Batch]:
    """Return the segments of each depth."""
    depths: list[int] = []
    for segment in tree.segments:
        depths.append(0 if segment.parent is None else depths[segment.parent] + 1)
    return [
        _Batch([i for i, depth in enumerate(depths) if depth == level])
        for level in range(max(depths) + 1)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A batch that was read."""

    batch: _Batch
    level: Level


class _Walk:
    """Reads the batches of one tree."""

    def __init__(self, route: SharedPrefixRoute, vlm: VlmModel, tree: packing.Tree) -> None:
        self.tree = tree
        self._route, self._vlm = route, vlm
        self._ids, self._positions = tree.ids, tree.positions
        width = vlm.model.config.get_text_config().hidden_size
        self.states = torch.zeros(len(tree), width, dtype=vlm.model.dtype)
        """The last states of all tokens, (S, width)."""

    def run(
        self, batch: _Batch, encoded: Any, shared: list[Level], above: Sequence[_Read] | None
    ) -> _Read:
        """Read a batch: its images, the levels that rows share, the batches above of their own."""
        tree, vlm = self.tree, self._vlm
        spans = [
            np.arange(tree.segments[i].begin + batch.skip, tree.segments[i].end)
            for i in batch.segments
        ]
        lengths = np.array([len(span) for span in spans])
        rows, longest = len(spans), int(lengths.max())
        padded = np.stack([np.pad(span, (0, longest - len(span)), mode="edge") for span in spans])
        is_token = np.arange(longest) < lengths[:, None]
        padding = vlm.processor.tokenizer.pad_token_id
        ids = torch.from_numpy(np.where(is_token, self._ids[padded], padding))
        positions = torch.from_numpy(self._positions[:, padded])
        inputs = vlm.with_images(ids.reshape(1, -1), encoded) if encoded else {"input_ids": ids}
        for name in ("input_ids", "inputs_embeds"):
            if name in inputs:
                inputs[name] = inputs[name].reshape(rows, longest, *inputs[name].shape[2:])
        own, mask = self._own(batch, above or [], longest)
        above_levels = [*shared, *([own] if own else [])]
        context = sum(level.layers[0][0].shape[2] for level in above_levels)
        self._route.count(rows, longest, context)
        cache = DynamicCache()
        with _attending(vlm.model, Context(shared, own, mask)) as unread_mask:
            states = vlm.model.model(
                **inputs,
                attention_mask=unread_mask,
                position_ids=positions[0] if len(positions) == 1 else positions,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        self.states[torch.from_numpy(padded[is_token])] = states[torch.from_numpy(is_token)]
        level = Level(_keys_and_values(cache), _padding(is_token))
        return _Read(batch, level)

    def _own(
        self, batch: _Batch, above: Sequence[_Read], longest: int
    ) -> tuple[Level | None, torch.Tensor | None]:
        """Return what the rows' own ancestors among the batches above hold, and the mask."""
        if not above:
            return None, None
        parts: list[KeysAndValues] = []
        masks = []
        rows = list(batch.segments)
        chains = [self._ancestors(i) for i in rows]
        for read in above:
            index = {segment: row for row, segment in enumerate(read.batch.segments)}
            places = [next((index[a] for a in chain if a in index), None) for chain in chains]
            chosen = torch.tensor([place or 0 for place in places])
            parts.append([(k[chosen], v[chosen]) for k, v in read.level.layers])
            width = read.level.layers[0][0].shape[2]
            none = torch.full((len(rows), width), -torch.inf)
            seen = torch.zeros(none.shape) if read.level.mask is None else read.level.mask[chosen]
            absent = torch.tensor([place is None for place in places])
            masks.append(torch.where(absent[:, None], none, seen))
        layers = [
            (torch.cat([k for k, _ in layer], 2), torch.cat([v for _, v in layer], 2))
            for layer in zip(*parts, strict=True)
        ]
        before = torch.cat(masks, 1)[:, None, None].expand(-1, 1, longest, -1)
        causal = torch.full((longest, longest), -torch.inf).triu(1)
        mask = torch.cat([before, causal.expand(len(rows), 1, -1, -1)], 3)
        return Level(layers), mask.to(self._vlm.model.dtype)

    def _ancestors(self, segment: int) -> list[int]:
        ancestors: list[int] = []
        parent = self.tree.segments[segment].parent
        while parent is not None:
            ancestors.append(parent)
            parent = self.tree.segments[parent].parent
        return ancestors


def _keys_and_values(cache: Any) -> KeysAndValues:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _padding(is_token: Any) -> torch.Tensor | None:
    """Return 0 for tokens and minus infinity for padding, (rows, tokens); None without padding."""
    if is_token.all():
        return None
    return torch.where(torch.from_numpy(is_token), 0.0, -torch.inf)
