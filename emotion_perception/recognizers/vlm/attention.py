"""What makes the packed pass cheap: small tiles, attention by branch, the compiled model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import transformers as typed_transformers
from PIL import Image
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from emotion_perception.recognizers.vlm import packing
from emotion_perception.recognizers.vlm.packing import Grid

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns


@dataclass(frozen=True, slots=True)
class Tiles:
    """Square pictures of any size for SmolVLM and Idefics3, whose processor knows one size only.

    Their vision towers were made for several: each patch is told its place by fractions of the
    picture's sides. A picture of half the side has a quarter of the tokens.
    """

    model: Any
    unit: int
    """Pixels of a side per token."""
    largest: int
    """The side that the tower was made for, in pixels."""

    @classmethod
    def of(cls, model: Any) -> Tiles | None:
        """None for the families that take pictures of any size as they are."""
        if model.config.model_type not in ("smolvlm", "idefics3"):
            return None
        vision = model.config.vision_config
        return cls(model, vision.patch_size * model.config.scale_factor, vision.image_size)

    def side(self, size: int) -> int:
        """The possible side that is nearest to the wanted one, in pixels."""
        return min(max((size + self.unit // 2) // self.unit, 1) * self.unit, self.largest)

    def grid(self, size: int) -> Grid:
        """The tokens of a picture whose longer side has `size` pixels."""
        return Grid(self.side(size) // self.unit, self.side(size) // self.unit)

    def features(self, image_processor: Any, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """(tokens, hidden) of each picture, as square as its longer side.

        The tower is called without `get_image_features`, which takes a picture that is 0 all over
        (grey) for padding and drops it.
        """
        sides = [self.side(max(image.size)) for image in images]
        features: dict[int, torch.Tensor] = {}
        for side in set(sides):
            those = [i for i, other in enumerate(sides) if other == side]
            pixels = self.pixels(image_processor, [images[i] for i in those], side)
            seen = self.model.model.vision_model(pixels).last_hidden_state
            features.update(zip(those, self.model.model.connector(seen), strict=True))
        return [features[i] for i in range(len(images))]

    def pixels(
        self, image_processor: Any, images: Sequence[Image.Image], side: int
    ) -> torch.Tensor:
        """(pictures, 3, side, side), as the tower takes them."""
        edge = {"longest_edge": side}
        return image_processor(  # type: ignore[no-any-return]
            [list(images)],
            size=edge,
            max_image_size=edge,
            device=self.model.device,
            return_tensors="pt",
        )["pixel_values"][0].to(self.model.device, self.model.dtype)


def language_model(model: Any) -> Any:
    """The part that reads, without the part that sees and without the output layer."""
    inner = model.model
    for name in ("text_model", "language_model"):
        if hasattr(inner, name):
            return getattr(inner, name)
    return inner


Branch = tuple[torch.Tensor, int, torch.Tensor]
"""Places that a branch looks at, its own last (n,); how many are its own; its mask (own, n)."""

_branches: ContextVar[Sequence[Branch]] = ContextVar("_branches")


def _attend_by_branch(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **how: Any
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, (1, heads, S, size): each branch by itself."""
    parts = []
    for places, own, mask in _branches.get():
        # Its own places lie together; taking them by number would copy.
        rows = slice(int(places[-own]), int(places[-1]) + 1)
        answer, _ = sdpa_attention_forward(
            module,
            query[:, :, rows],
            key[:, :, places],
            value[:, :, places],
            mask[None, None],
            **{**how, "is_causal": False},
        )
        parts.append(answer)
    return torch.cat(parts, 1), None


transformers.AttentionInterface.register("by_branch", _attend_by_branch)


@contextmanager
def attention_by_branch(model: Any, branches: Sequence[Branch]) -> Iterator[torch.Tensor]:
    """Meanwhile the language model attends within branches; gives the mask to call it with."""
    config = language_model(model).config
    stock, config._attn_implementation = config._attn_implementation, "by_branch"
    token = _branches.set(branches)
    try:
        # Of four axes, so that it is passed through as it is; nobody reads it.
        yield torch.ones(1, 1, 1, 1, dtype=torch.bool, device=model.device)
    finally:
        _branches.reset(token)
        config._attn_implementation = stock


@contextmanager
def packed_attention(
    model: Any, tree: packing.Tree, by_branch: bool = True
) -> Iterator[torch.Tensor]:
    """Meanwhile the language model attends within this tree; gives the mask to call it with.

    Args:
        by_branch: less work in more steps, which is best on a CPU.
    """
    device = model.device
    sees, segment_of = (torch.from_numpy(x).to(device) for x in (tree.sees, tree.segment_of))
    place = torch.arange(len(tree), device=device)
    if not by_branch:
        yield packing.block_mask(sees, segment_of, place)[None, None]
        return
    branches = []
    for places, own in tree.branches:
        at = torch.from_numpy(places).to(device)
        branches.append((at, own, packing.block_mask(sees, segment_of[at], at)[-own:]))
    with attention_by_branch(model, branches) as mask:
        yield mask


@contextmanager
def tapped(model: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Meanwhile the states (1, S, width) after these layers of the language model are kept.

    Raises:
        ValueError: the model has no such layer.
    """
    found: dict[int, torch.Tensor] = {}
    stack = language_model(model).layers
    if wrong := [layer for layer in layers if not 0 <= layer < len(stack)]:
        raise ValueError(f"there is no layer {wrong[0]}: the model has {len(stack)}")

    def keep(layer: int) -> Any:
        def hook(module: Any, given: Any, output: Any) -> None:
            found[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [stack[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def answer_logits(
    hidden: torch.Tensor, head: torch.Tensor, tokens: Sequence[int], totals: bool
) -> torch.Tensor:
    """(N, tokens): the logits of some tokens after N hidden states (N, hidden).

    Args:
        head: (vocabulary, hidden), the output layer.
        totals: with the logarithm of the sum over the whole vocabulary as a last column.
    """
    logits = (hidden @ head[list(tokens)].T).float()
    if not totals:
        return logits
    return torch.cat([logits, (hidden @ head.T).float().logsumexp(-1, keepdim=True)], -1)


class Compiled:
    """The language model, compiled for every length of sequence that it is called with."""

    def __init__(self, model: Any) -> None:
        self._part = language_model(model)
        self._forward: Any = torch.compile(
            self._part.forward,
            dynamic=False,
            fullgraph=True,
            mode="reduce-overhead" if model.device.type == "cuda" else None,
        )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Calls of the model go to the compiled part meanwhile; those of `generate` must not."""
        stock = self._part.forward
        self._part.forward = self._call
        try:
            yield
        finally:
            self._part.forward = stock

    def _call(self, **inputs: Any) -> Any:
        if (layers := inputs.get("deepstack_visual_embeds")) is not None:
            # Qwen3-VL adds features of the pictures between layers, at places given by a mask:
            # shapes that change with the pictures. Spread over the whole sequence they do not,
            # and "row 0" takes the place of the mask.
            places = inputs["visual_pos_masks"]
            empty = torch.zeros_like(inputs["inputs_embeds"])
            inputs["deepstack_visual_embeds"] = [
                empty.masked_scatter(places[..., None], layer.to(empty.dtype)) for layer in layers
            ]
            inputs["visual_pos_masks"] = torch.zeros(1, dtype=torch.long, device=empty.device)
        return self._forward(**inputs)
