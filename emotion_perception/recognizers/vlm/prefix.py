"""Read the tokens that several passes begin with once, instead of in every pass.

All tokens before the first image (system prompt, definitions, scales) are the same for each scene.
Where the people of one scene do not fit into one pass, the scene image is the same, too. Attention
is causal, so the keys and values of these tokens do not depend on what follows: a pass that gets
them computes the remaining tokens only, and gives the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache

from emotion_perception.recognizers.vlm import attention, packing


class PrefixCache(DynamicCache):
    """The keys and values of a prefix; those of later tokens are returned and not kept.

    A pass may have several rows, which all continue the prefix.
    """

    complete = False
    """Whether the prefix has been read."""
    _longer: PrefixCache | None = None
    _longer_tokens = 0

    @classmethod
    def empty(cls) -> PrefixCache:
        """Return the cache of a prefix without tokens."""
        cache = cls()
        cache.complete = True
        return cache

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Return the keys and values of prefix and new tokens, (rows, heads, tokens, size) each."""
        if not self.complete:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        keys, values, rows = key_states, value_states, len(key_states)
        if self.layers:
            layer: Any = self.layers[layer_idx]
            keys = torch.cat([layer.keys.expand(rows, -1, -1, -1), keys], 2)
            values = torch.cat([layer.values.expand(rows, -1, -1, -1), values], 2)
        if self._longer is not None:
            tokens = slice(self._longer_tokens)
            self._longer.update(keys[:, :, tokens], values[:, :, tokens], layer_idx)
        return keys, values

    @contextmanager
    def extending(self, tokens: int) -> Iterator[PrefixCache]:
        """Yield a cache that holds the first `tokens` tokens after one pass within the context."""
        self._longer, self._longer_tokens = PrefixCache(), tokens
        try:
            yield self._longer
            self._longer.complete = True
        finally:
            self._longer = None


class ConstantPrefix:
    """The prefix of a model, read again when its tokens, positions or the weights change."""

    def __init__(self) -> None:
        """Start without a prefix; the first pass reads it."""
        self.cache: PrefixCache | None = None
        self._key: object = None

    @staticmethod
    def applies(model: Any) -> bool:
        """Return whether a pass may use what another pass has read.

        In training it may not: gradients flow through the prefix, dropout differs between passes,
        and automatic casts change the type of keys and values.
        """
        return (
            torch.is_inference_mode_enabled()
            and not model.training
            and not torch.is_autocast_enabled(model.device.type)
        )

    def read(self, model: Any, tree: packing.Tree, length: int) -> PrefixCache:
        """Return the keys and values of the first `length` tokens of the tree."""
        language_model = attention.language_model(model)
        ids, positions = tree.ids[:length], tree.positions[:, :length]
        key = ids.tobytes(), positions.tobytes(), _weights_key(language_model)
        if self.cache is None or key != self._key:
            self.cache = None  # frees its memory before the next one is made
            cache = PrefixCache()
            ids_tensor, positions_tensor = (
                torch.from_numpy(x).to(model.device) for x in (ids, positions)
            )
            language_model(
                input_ids=ids_tensor[None],
                position_ids=model_positions(positions_tensor),
                past_key_values=cache,
                use_cache=True,
            )
            cache.complete = True
            self.cache, self._key = cache, key
        return self.cache

    def clear(self) -> None:
        """Free the memory."""
        self.cache = self._key = None


class SceneTrunk:
    """What all people of a scene share, read in the first of several passes about them."""

    def __init__(self) -> None:
        """Start unread."""
        self.cache: PrefixCache | None = None
        self.grids: list[packing.Grid] = []
        """Of the images in the trunk."""


def model_positions(positions: torch.Tensor) -> torch.Tensor:
    """Return positions (axes, S) as models take them: (1, S), or (axes, 1, S) for several axes."""
    return positions if len(positions) == 1 else positions[:, None]


def _weights_key(language_model: Any) -> tuple[object, ...]:
    """Return what changes when the weights are replaced, moved, or changed in place.

    PyTorch counts the changes of a tensor in place, for example by an optimizer.
    """
    return tuple(
        (id(p), p.data_ptr(), p.dtype, 0 if p.is_inference() else p._version)
        for p in language_model.parameters()
    )
