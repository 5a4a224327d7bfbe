"""Make the packed pass cheap: small tiles, attention by branch, the compiled model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

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


@dataclass(frozen=True, slots=True)
class Kind:
    """What the layers of one kind attend to besides all earlier tokens of a prompt."""

    window: int | None = None
    """A token attends to itself and the tokens before it, this many in all; None: to all before."""
    image_tokens_attend_to_each_other: bool = False
    """The tokens of an image attend to its later tokens, too."""


_KINDS_WITH_IMAGES: dict[str, tuple[str, ...]] = {
    "gemma3": ("full_attention", "sliding_attention"),
}
"""Families to the kinds of layers in which image tokens attend to each other."""


def layer_kinds(model: Any) -> dict[str, Kind]:
    """Return the kinds of layers of a language model, by their names in `layer_types`.

    Raises:
        ValueError: a layer does not only attend; the message is the reason.
    """
    config = model.config.get_text_config()
    names = set(getattr(config, "layer_types", None) or ())
    if others := sorted(names - {"full_attention", "sliding_attention"}):
        raise ValueError(f"its language model has layers of type {', '.join(others)}")
    for layer in language_model(model).layers:
        if not hasattr(layer, "self_attn"):
            raise ValueError(
                f"its language model has layers without attention ({type(layer).__name__})"
            )
        if convolution := next((m for m in layer.modules() if isinstance(m, _CONVOLUTIONS)), None):
            raise ValueError(f"its language model has layers of type {type(convolution).__name__}")
    both_ways = getattr(config, "use_bidirectional_attention", None)
    if both_ways not in (None, False, "vision"):
        raise ValueError("its language model reads the whole prompt in both directions")
    with_images = _KINDS_WITH_IMAGES.get(model.config.model_type, ())
    if both_ways == "vision":
        with_images = ("sliding_attention",)
    window = getattr(config, "sliding_window", None)
    if not names:
        windowed = window and getattr(config, "use_sliding_window", True)
        names = {"sliding_attention" if windowed else "full_attention"}
    return {
        name: Kind(window if name == "sliding_attention" else None, name in with_images)
        for name in sorted(names)
    }


def why_not_attention_only(model: Any) -> str:
    """Return why a language model does more than attend to earlier tokens; empty if it does not.

    A packed pass is exact where masks and positions decide what a token sees. Recurrence and
    convolution mix the branches.
    """
    try:
        layer_kinds(model)
    except ValueError as error:
        return str(error)
    return ""


_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


class Branch(NamedTuple):
    """What a branch of the tree attends to."""

    places: torch.Tensor
    """(n,) with its own last."""
    own: int
    """The number of its own that are computed."""
    masks: dict[str, torch.Tensor]
    """Whether a computed token attends to a place, (own, n), by kind of layer."""


_branches: ContextVar[Sequence[Branch]] = ContextVar("_branches")


def _attend_by_branch(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Compute attention branch by branch, as transformers calls it, (1, heads, S, size)."""
    parts = []
    cached = key.shape[2] - query.shape[2]
    kind = "full_attention" if kwargs.get("sliding_window") is None else "sliding_attention"
    for places, own, masks in _branches.get():
        # Its own places are contiguous; indexing them one by one would copy.
        rows = slice(int(places[-own]) - cached, int(places[-1]) + 1 - cached)
        mask = masks[kind] if len(masks) > 1 else next(iter(masks.values()))
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
def attention_by_branch(model: Any, branches: Sequence[Branch]) -> Iterator[Any]:
    """Make the language model attend within branches; yield the mask to call it with."""
    config = language_model(model).config
    stock, config._attn_implementation = config._attn_implementation, "by_branch"
    token = _branches.set(branches)
    try:
        # It has four axes, so that it is passed through unchanged; it is not read.
        unread = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=model.device)
        yield _by_kind(dict.fromkeys(branches[0].masks, unread))
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
) -> Iterator[Any]:
    """Make the language model attend within a tree; yield the mask to call it with.

    Args:
        model: the whole model.
        tree: the packed prompts.
        by_branch: attend branch by branch: less work in more steps, which suits a CPU.
        cached: the first tokens of the tree, this many, are attended to and not computed.
    """
    if not by_branch:
        yield tree_mask(model, tree, cached)
        return
    layout = _Layout.of(tree, model.device)
    kinds = layer_kinds(model)
    branches = []
    for indices, own in tree.branches:
        computed = min(own, int(indices[-1]) + 1 - cached)
        if computed <= 0:
            continue
        places = torch.from_numpy(indices).to(model.device)
        masks = {name: layout.mask(places, kind)[-computed:] for name, kind in kinds.items()}
        branches.append(Branch(places, computed, masks))
    with attention_by_branch(model, branches) as unread_mask:
        yield unread_mask


def tree_mask(model: Any, tree: packing.Tree, cached: int = 0) -> Any:
    """Return whether a token attends to another one, (1, 1, S - cached, S).

    For a language model with several kinds of layers it is a dictionary with a mask for each kind.
    """
    layout = _Layout.of(tree, model.device)
    place = torch.arange(len(tree), device=model.device)
    masks = {
        name: layout.mask(place, kind)[None, None, cached:]
        for name, kind in layer_kinds(model).items()
    }
    return _by_kind(masks)


def _by_kind(masks: dict[str, torch.Tensor]) -> Any:
    """Return masks as models take them: the mask alone where there is a single kind of layer."""
    return masks if len(masks) > 1 else next(iter(masks.values()))


class _Layout(NamedTuple):
    """What decides which tokens of a tree attend to each other, as tensors of one device."""

    sees: torch.Tensor
    segment_of: torch.Tensor
    image_of: torch.Tensor
    depth: torch.Tensor

    @classmethod
    def of(cls, tree: packing.Tree, device: Any) -> _Layout:
        parts = (tree.sees, tree.segment_of, tree.image_of, tree.depth)
        return cls(*(torch.from_numpy(x).to(device) for x in parts))

    def mask(self, places: torch.Tensor, kind: Kind) -> torch.Tensor:
        """Return whether one of these places attends to another one, (n, n)."""
        mask: torch.Tensor = packing.block_mask(self.sees, self.segment_of[places], places)
        if kind.image_tokens_attend_to_each_other:
            image = self.image_of[places]
            mask = mask | ((image[:, None] == image[None]) & (image >= 0))
        if kind.window:
            depth = self.depth[places]
            mask = mask & (depth[None] > depth[:, None] - kind.window)
        return mask


@contextmanager
def first_layers(model: Any, count: int) -> Iterator[None]:
    """Make the language model end after its first `count` layers.

    What it then returns is normalised as its last states are, and is not to be used.
    """
    part = language_model(model)
    stock, part.layers = part.layers, part.layers[:count]
    try:
        yield
    finally:
        part.layers = stock


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
    hidden: torch.Tensor,
    head: torch.Tensor,
    tokens: Sequence[int],
    totals: bool,
    adjust: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
) -> torch.Tensor:
    """Return the logits of some tokens, (N, tokens), from hidden states (N, hidden).

    Args:
        hidden: (N, hidden).
        head: the output layer, (vocabulary, hidden).
        tokens: the tokens.
        totals: append the log-sum-exp over the whole vocabulary as a last column.
        adjust: what the family does to its logits, see `logit_adjustment`.
    """
    logits = adjust((hidden @ head[list(tokens)].T).float())
    if not totals:
        return logits
    return torch.cat([logits, adjust((hidden @ head.T).float()).logsumexp(-1, keepdim=True)], -1)


def logit_adjustment(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what the forward pass of a family does to the logits of its output layer."""
    config = model.config.get_text_config()
    family = model.config.model_type
    if family == "gemma4" and (cap := config.final_logit_softcapping):
        return lambda logits: cap * torch.tanh(logits / cap)
    if family == "granite_docling":
        return lambda logits: logits / config.logits_scaling
    return lambda logits: logits


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
