"""Tiny language models without vision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as typed_transformers

from emotion_perception.testing.checkpoints.base import save_checkpoint
from emotion_perception.testing.checkpoints.vlm import train_tokenizer
from emotion_perception.testing.checkpoints.vlm_base import TINY_TEXT, chatml_template

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

TEXT_FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3",
                 "gpt_neox": "GPTNeoX"}  # fmt: skip
"""`model_type` to the prefix of the class names."""


def save_tiny_text(family: str, folder: Path | str, seed: int = 0, **changes: Any) -> Path:
    """Save a small random language model.

    Args:
        family: A key of `TEXT_FAMILIES`.
        folder: The folder to write.
        seed: Seed of the weights.
        changes: Changes of the model configuration.

    Raises:
        ValueError: The family is unknown.
    """
    if family not in TEXT_FAMILIES:
        raise ValueError(f"cannot build {family!r}: choose one of {', '.join(TEXT_FAMILIES)}")
    tokenizer = train_tokenizer(())
    tokenizer.chat_template = chatml_template("")
    config = getattr(transformers, f"{TEXT_FAMILIES[family]}Config")(
        **{**TINY_TEXT, "head_dim": 16, "sliding_window": None, **changes},
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    create = transformers.AutoModelForCausalLM.from_config
    return save_checkpoint(lambda: create(config), tokenizer, folder, seed)
