"""Small random checkpoints of BridgeTower and ViLT that load like those from the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from emotion_perception.recognizers.encoders import LABEL_SENTENCES, NEUTRAL_SENTENCE

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

IMAGE_SIZE = 64
"""The shorter side, in pixels, of what either model sees."""

_PATCH = 16
_LIVELY = 0.3
"""Spread of random weights: at the usual 0.02 so small a model hardly looks at its input."""


def save_bridgetower(folder: Path | str, seed: int = 0, **changes: Any) -> Path:
    """A tiny BridgeTower for image-text matching, with a RoBERTa tokenizer.

    Args:
        changes: of its configuration.
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
    """A tiny ViLT that ranks sentences, with a BERT tokenizer.

    Args:
        changes: of its configuration.
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
            "initializer_range": _LIVELY,
            **changes,
        }
    )
    processor = transformers.ViltProcessor(
        transformers.ViltImageProcessor(size={"shortest_edge": IMAGE_SIZE}, size_divisor=_PATCH),
        tokenizer,
    )
    return _save(transformers.ViltForImageAndTextRetrieval, config, processor, folder, seed)


def _save(auto: Any, config: Any, processor: Any, folder: Path | str, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto(config)
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():  # ViLT's positions begin at zero
                torch.nn.init.normal_(weight, std=_LIVELY)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def _roberta() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*LABEL_SENTENCES, NEUTRAL_SENTENCE], trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    return transformers.RobertaTokenizer(vocab=trained["vocab"], merges=merges)


def _bert() -> Any:
    # Not trained: the trainer of such tokenizers numbers its tokens differently each time.
    words = set(re.findall(r"\w+|\W", " ".join([*LABEL_SENTENCES, NEUTRAL_SENTENCE]).lower())) - {
        " "
    }
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *sorted(words)])}
    return transformers.BertTokenizer(vocab=vocabulary)
