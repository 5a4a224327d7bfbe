"""Load the processors of models that read images and texts, and check that they are usable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers as typed_transformers

from emotion_perception.core.errors import ModelError
from emotion_perception.recognizers.vlm import loading

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns


def read_model_type(folder: Path) -> str:
    """Return the `model_type` of a model; empty if there is no configuration to read."""
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return ""  # `loading.load_model` reports it
    return str(config.get("model_type")) if config and isinstance(config, dict) else ""


def load_processor(name: str, folder: Path, texts: Sequence[str], remedy: str) -> Any:
    """Return the processor of a model, with its `image_processor` and its `tokenizer`.

    Args:
        name: The name of the model, for errors.
        folder: The folder of the model.
        texts: Texts that the tokenizer must distinguish.
        remedy: The end of the errors.

    Raises:
        ModelError: A part of the processor is missing or unusable.
    """
    failure = f"cannot use the processor of {name} for images and texts"
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, **loading.LOCAL)
    except Exception as error:  # many kinds, for JSON of other types than expected
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{failure}: {reason}; {remedy}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(f"{failure}: it lacks its image processor or its tokenizer; {remedy}")
    # transformers also creates a tokenizer when its files are missing; it has no vocabulary.
    if len({tuple(ids) for ids in processor.tokenizer(list(texts))["input_ids"]}) < len(texts):
        raise ModelError(f"{failure}: its tokenizer does not distinguish words; {remedy}")
    return processor
