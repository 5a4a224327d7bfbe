"""Tiny BridgeTower and ViLT, which encode an image and a text together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers as typed_transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from emotion_perception.recognizers.encoders import LABEL_SENTENCES, NEUTRAL_SENTENCE
from emotion_perception.testing.checkpoints.base import (
    randomize_zero_weights,
    save_checkpoint,
    train_bpe,
)

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

IMAGE_SIZE = 64
"""Shorter side, in pixels, of the input image of each model."""

_PATCH = 16
_INIT_STD = 0.3
"""Standard deviation of the weights; at the usual 0.02 the output hardly depends on the input."""


def save_bridgetower(folder: Path | str, seed: int = 0, **changes: Any) -> Path:
    """Save a tiny BridgeTower for image-text matching with a RoBERTa tokenizer.

    Args:
        folder: The folder to write.
        seed: Seed of the weights.
        changes: Changes of the model configuration.
    """
    tokenizer = _roberta()
    size = {"hidden_size": 64, "num_hidden_layers": 3, "initializer_factor": 4}
    config = transformers.BridgeTowerConfig(
        **{
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "initializer_factor": 4,
            "vision_config": {**size, "image_size": IMAGE_SIZE, "patch_size": _PATCH},
            "text_config": {
                **size,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 64,
                "pad_token_id": tokenizer.pad_token_id,
            },
            **changes,
        }
    )
    edge = {"shortest_edge": IMAGE_SIZE}
    processor = transformers.BridgeTowerProcessor(
        transformers.BridgeTowerImageProcessor(size=edge, crop_size=edge), tokenizer
    )
    return _save(transformers.BridgeTowerForImageAndTextRetrieval, config, processor, folder, seed)


def save_vilt(folder: Path | str, seed: int = 0, **changes: Any) -> Path:
    """Save a tiny ViLT for ranking sentences with a BERT tokenizer.

    Args:
        folder: The folder to write.
        seed: Seed of the weights.
        changes: Changes of the model configuration.
    """
    tokenizer = _bert()
    config = transformers.ViltConfig(
        **{
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "image_size": IMAGE_SIZE,
            "patch_size": _PATCH,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": _INIT_STD,
            **changes,
        }
    )
    processor = transformers.ViltProcessor(
        transformers.ViltImageProcessor(size={"shortest_edge": IMAGE_SIZE}, size_divisor=_PATCH),
        tokenizer,
    )
    return _save(transformers.ViltForImageAndTextRetrieval, config, processor, folder, seed)


def _save(model_class: Any, config: Any, processor: Any, folder: Path | str, seed: int) -> Path:
    return save_checkpoint(
        lambda: model_class(config),
        processor,
        folder,
        seed,
        lambda model: randomize_zero_weights(model, _INIT_STD),
    )


def _roberta() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab, merges = train_bpe(tokenizer, [*LABEL_SENTENCES, NEUTRAL_SENTENCE], 400, special)
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges)


def _bert() -> Any:
    # Not trained, because the trainer of WordPiece numbers its tokens differently each time.
    words = set(re.findall(r"\w+|\W", " ".join([*LABEL_SENTENCES, NEUTRAL_SENTENCE]).lower())) - {
        " "
    }
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    return transformers.BertTokenizer(vocab=vocabulary)
