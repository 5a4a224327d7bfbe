"""Create random models reproducibly, save them, and train their byte-pair tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers, trainers


def save_checkpoint(
    create: Callable[[], Any],
    processor: Any,
    folder: Path | str,
    seed: int,
    adjust: Callable[[Any], None] = lambda model: None,
    device: str = "cpu",
) -> Path:
    """Save a random model and its processor. The same seed gives the same weights.

    Args:
        create: Returns the model with its initial random weights.
        processor: The processor of the model, or its tokenizer.
        folder: The folder to write; it is created if it does not exist.
        seed: Seed of the weights.
        adjust: Changes weights of the new model in place.
        device: Where the model is created.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        model = create()
        adjust(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def randomize_zero_weights(model: Any, std: float) -> None:
    """Replace weight matrices that are all zero, because such a model ignores part of its input.

    Examples are the image projection of Gemma 3 and the position embeddings of ViLT.
    """
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            torch.nn.init.normal_(weight, std=std)


def train_bpe(
    tokenizer: Any,
    corpus: Iterable[str],
    vocab_size: int,
    special: Sequence[str],
    alphabet: Sequence[str] | None = None,
    **options: Any,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and the merges that a BPE tokenizer learns from a corpus.

    Args:
        tokenizer: A tokenizer of the library `tokenizers` with an untrained BPE model.
        corpus: The texts to learn from.
        vocab_size: Largest number of tokens.
        special: Tokens that are not text.
        alphabet: Characters that are always tokens; default: all bytes.
        options: Further options of `BpeTrainer`.
    """
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=list(
            pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet
        ),
        show_progress=False,
        **options,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return trained["vocab"], [tuple(merge) for merge in trained["merges"]]
