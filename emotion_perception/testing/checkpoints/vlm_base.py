"""What the recipes of vision-language models share: sizes, tokens and chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Arguments = dict[str, Any]
"""Keyword arguments of a transformers configuration."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parts of one family of models."""

    text: Arguments
    vision: Arguments
    build: Callable[[Recipe, Any], tuple[Any, Any]]
    """Takes the recipe and the tokenizer; returns the model configuration and the processor."""
    special: tuple[str, ...]
    """Special tokens besides those of the chat template."""
    version: str = ""
    """Prefix of the class names of a Qwen-VL or LLaVA model."""
    vocabulary: int = 0
    """Rows of the output layer; 0 means the number of tokens of the tokenizer."""


def chatml_template(image: str) -> str:
    """Return a ChatML template that writes `image` in the place of each image."""
    return (
        "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
        "{% elif line['type'] == 'image' %}{{ '" + image + "' }}{% endif %}{% endfor %}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def siglip_vision(recipe: Recipe) -> Arguments:
    """Return the vision arguments of a SigLIP tower without a pooling head."""
    return {"model_type": "siglip_vision_model", "vision_use_head": False, **recipe.vision}


def name_tokens(tokenizer: Any, **tokens: str) -> None:
    """Give the tokenizer attributes such as `image_token`.

    The public way needs a tokenizer that is loaded from files.
    """
    tokenizer._set_model_specific_special_tokens(tokens)


INIT_STD = 0.1
"""Standard deviation of tiny weights; at the usual 0.02 the output hardly depends on the input."""

TINY_TEXT: Arguments = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "initializer_range": INIT_STD,
}

TINY_RECURRENT_TEXT: Arguments = {
    **TINY_TEXT,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
"""Every other layer is recurrent."""
TINY_VISION: Arguments = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "initializer_range": INIT_STD,
}
TINY_SIZE = {"height": 64, "width": 64}
