"""Make the packed pass cheap: small tiles, attention by branch, the compiled model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import transformers as typed_transformers
from PIL import Image
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from emotion_perception.recognizers.vlm import packing
from emotion_perception.recognizers.vlm.packing import Grid

transformers: Any = typed_transformers  # its annotations do not match what it accepts


@dataclass(frozen=True, slots=True)
class Tiles:
    """Square images of several sizes for SmolVLM and Idefics3, whose processor has one size.

    Their vision towers take several sizes: the position of a patch is a fraction of the image's
    sides. An image of half the side has a quarter of the tokens.
    """

    model: Any
    unit: int
    """Pixels per token along a side."""
    largest: int
    """The side that the vision tower was trained with, in pixels."""

    @classmethod
    def for_model(cls, model: Any) -> Tiles | None:
        """Return the tiles of a model; None for families that take images of any size."""
        if model.config.model_type not in ("smolvlm", "idefics3"):
            return None
        vision = model.config.vision_config
        return cls(model, vision.patch_size * model.config.scale_factor, vision.image_size)

    def side(self, size: int) -> int:
        """Return the possible side nearest to `size`, in pixels."""
        return min(max((size + self.unit // 2) // self.unit, 1) * self.unit, self.largest)

    def grid(self, size: int) -> Grid:
        """Return the token grid of an image whose longer side has `size` pixels."""
        return Grid(self.side(size) // self.unit, self.side(size) // self.unit)

    def features(self, image_processor: Any, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Return the features (tokens, hidden) of each image, stretched to a square.

        The tower is called without `get_image_features`, which drops an image whose pixels are all
        0 (grey) because it looks like padding.
        """
        sides = [self.side(max(image.size)) for image in images]
        features: dict[int, torch.Tensor] = {}
        for side in set(sides):
            indices = [i for i, other in enumerate(sides) if other == side]
            pixels = self.pixels(image_processor, [images[i] for i in indices], side)
            hidden = self.model.model.vision_model(pixels).last_hidden_state
            features.update(zip(indices, self.model.model.connector(hidden), strict=True))
        return [features[i] for i in range(len(images))]

    def pixels(
        self, image_processor: Any, images: Sequence[Image.Image], side: int
    ) -> torch.Tensor:
        """Return the pixels for the vision tower, (images, 3, side, side)."""
        edge = {"longest_edge": side}
        return image_processor(  # type: ignore[no-any-return]
            [list(images)],
            size=edge,
            max_image_size=edge,
            device=self.model.device,
            return_tensors="pt",
        )["pixel_values"][0].to(self.model.device, self.model.dtype)


def language_model(model: Any) -> Any:
    """Return the language model without vision tower and output layer."""
    inner = model.model
    for name in ("text_model", "language_model"):
        if hasattr(inner, name):
            return getattr(inner, name)
    return inner


def why_not_full_attention(model: Any) -> str:
    """Return why a language model does more than attend to all tokens before; empty if it does not.

    A packed pass is exact for layers of full causal attention only: recurrence and convolution mix
    the branches, and windows count tokens of other branches.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if others := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"its language model has layers of type {', '.join(others)}"
    window = getattr(config, "sliding_window", None)
    uses_window = "sliding_attention" in kinds or (
        not kinds and window and getattr(config, "use_sliding_window", True)
    )
    if uses_window and (window or 0) < config.max_position_embeddings:
        return f"its language model attends within a window of {window} tokens"
    for layer in language_model(model).layers:
        if not hasattr(layer, "self_attn"):
            return f"its language model has layers without attention ({type(layer).__name__})"
        if convolution := next((m for m in layer.modules() if isinstance(m, _CONVOLUTIONS)), None):
            return f"its language model has layers of type {type(convolution).__name__}"
    return ""


_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)

Branch = tuple[torch.Tensor, int, torch.Tensor]
"""Places that a branch attends to, its own last (n,); the number of its own; its mask (own, n)."""

_branches: ContextVar[Sequence[Branch]] = ContextVar("_branches")


def _attend_by_branch(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Compute attention branch by branch, as transformers calls it, (1, heads, S, size)."""
    parts = []
    cached = key.shape[2] - query.shape[2]
    for places, own, mask in _branches.get():
        # Its own places are contiguous; indexing them one by one would copy.
        rows = slice(int(places[-own]) - cached, int(places[-1]) + 1 - cached)
        output, _ = sdpa_attention_forward(
            module,
            query[:, :, rows],
            key[:, :, places],
            value[:, :, places],
            mask[None, None],
            **{**kwargs, "is_causal": False},
        )
        parts.append(output)
    return torch.cat(parts, 1), None


transformers.AttentionInterface.register("by_branch", _attend_by_branch)


@contextmanager
def attention_by_branch(model: Any, branches: Sequence[Branch]) -> Iterator[torch.Tensor]:
    """Make the language model attend within branches; yield the mask to call it with."""
    config = language_model(model).config
    stock, config._attn_implementation = config._attn_implementation, "by_branch"
    token = _branches.set(branches)
    try:
        # It has four axes, so that it is passed through unchanged; it is not read.
        yield torch.ones(1, 1, 1, 1, dtype=torch.bool, device=model.device)
    finally:
        _branches.reset(token)
        config._attn_implementation = stock


def recompute_context(model: Any) -> AbstractContextManager[Any]:
    """Return a context in which the language model attends as it does now.

    Activation checkpointing enters it in the backward pass, outside of `packed_attention`.
    """
    branches = _branches.get(None)
    return nullcontext() if branches is None else attention_by_branch(model, branches)


@contextmanager
def packed_attention(
    model: Any, tree: packing.Tree, by_branch: bool = True, cached: int = 0
) -> Iterator[torch.Tensor]:
    """Make the language model attend within a tree; yield the mask to call it with.

    Args:
        model: the whole model.
        tree: the packed prompts.
        by_branch: attend branch by branch: less work in more steps, which suits a CPU.
        cached: the first tokens of the tree, this many, are attended to and not computed.
    """
    device = model.device
    if not by_branch:
        yield tree_mask(tree, device, cached)
        return
    sees, segment_of = (torch.from_numpy(x).to(device) for x in (tree.sees, tree.segment_of))
    branches = []
    for indices, own in tree.branches:
        computed = min(own, int(indices[-1]) + 1 - cached)
        if computed <= 0:
            continue
        places = torch.from_numpy(indices).to(device)
        mask = packing.block_mask(sees, segment_of[places], places)[-computed:]
        branches.append((places, computed, mask))
    with attention_by_branch(model, branches) as unread_mask:
        yield unread_mask


def tree_mask(tree: packing.Tree, device: torch.device, cached: int = 0) -> torch.Tensor:
    """Return whether a token attends to another one, (1, 1, S - cached, S)."""
    sees, segment_of = (torch.from_numpy(x).to(device) for x in (tree.sees, tree.segment_of))
    place = torch.arange(len(tree), device=device)
    return packing.block_mask(sees, segment_of, place)[None, None, cached:]  # type: ignore[no-any-return]


@contextmanager
def record_states(model: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Record the states (1, S, width) after these layers of the language model.

    Raises:
        ValueError: the model has no such layer.
    """
    states: dict[int, torch.Tensor] = {}
    stack = language_model(model).layers
    if wrong := [layer for layer in layers if not 0 <= layer < len(stack)]:
        raise ValueError(f"cannot read layer {wrong[0]}: the model has {len(stack)} layers")

    def keep(layer: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [stack[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def answer_logits(
    hidden: torch.Tensor, head: torch.Tensor, tokens: Sequence[int], totals: bool
) -> torch.Tensor:
    """Return the logits of some tokens, (N, tokens), from hidden states (N, hidden).

    Args:
        hidden: (N, hidden).
        head: the output layer, (vocabulary, hidden).
        tokens: the tokens.
        totals: append the log-sum-exp over the whole vocabulary as a last column.
    """
    logits = (hidden @ head[list(tokens)].T).float()
    if not totals:
        return logits
    return torch.cat([logits, (hidden @ head.T).float().logsumexp(-1, keepdim=True)], -1)


class Compiled:
    """The language model, compiled for each sequence length that it is called with."""

    def __init__(self, model: Any) -> None:
        """Prepare the compilation, which happens at the first call."""
        self._part = language_model(model)
        self._forward: Any = torch.compile(
            self._part.forward,
            dynamic=False,
            fullgraph=True,
            mode="reduce-overhead" if model.device.type == "cuda" else None,
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Route calls of the model to the compiled part; calls of `generate` must stay outside."""
        stock = self._part.forward
        self._part.forward = self._call
        try:
            yield
        finally:
            self._part.forward = stock

    def _call(self, **inputs: Any) -> Any:
        if (layers := inputs.get("deepstack_visual_embeds")) is not None:
            # Qwen3-VL adds image features between layers at places given by a mask, with shapes
            # that change with the images. Spread over the whole sequence the shapes are constant,
            # and "row 0" replaces the mask.
            places = inputs["visual_pos_masks"]
            empty = torch.zeros_like(inputs["inputs_embeds"])
            inputs["deepstack_visual_embeds"] = [
                empty.masked_scatter(places[..., None], layer.to(empty.dtype)) for layer in layers
            ]
            inputs["visual_pos_masks"] = torch.zeros(1, dtype=torch.long, device=empty.device)
        return self._forward(**inputs)
