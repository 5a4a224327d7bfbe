"""Small random checkpoints of CLIP, SigLIP, BLIP and Florence-2 that load like the hub's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.recognizers.clip import TEMPLATES
from emotion_perception.recognizers.text.narracap import read_words

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

IMAGE_SIZE = 64
"""The side, in pixels, of the square that each of them sees."""

_PATCH = 16
_VOCABULARY = 800
_LIVELY = 0.2
"""Spread of random weights: at the usual 0.02 so small a model hardly looks at its input."""

_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
_EDGE = {"shortest_edge": IMAGE_SIZE}


def save_clip(folder: Path | str, seed: int = 0) -> Path:
    """A tiny CLIP, which cuts out the middle square of what it is shown."""
    tokenizer = _clip_tokenizer()
    tower = {**_SMALL, "initializer_factor": 5.0}
    config = transformers.CLIPConfig(
        projection_dim=32,
        initializer_factor=5.0,
        vision_config={**tower, "image_size": IMAGE_SIZE, "patch_size": _PATCH},
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 77,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    image_processor = transformers.CLIPImageProcessor(size=_EDGE, crop_size=_SQUARE)
    processor = transformers.CLIPProcessor(image_processor, tokenizer)
    return _save(transformers.CLIPModel, config, processor, folder, seed)


def save_siglip(folder: Path | str, seed: int = 0) -> Path:
    """A tiny SigLIP 2 for pictures of one size: the classes of SigLIP, the tokenizer of Gemma."""
    tokenizer = _gemma_tokenizer()
    config = transformers.SiglipConfig(
        vision_config={**_SMALL, "image_size": IMAGE_SIZE, "patch_size": _PATCH},
        text_config={**_siglip_text(tokenizer), "projection_size": 64},
    )
    image_processor = transformers.SiglipImageProcessor(size=_SQUARE)
    processor = transformers.SiglipProcessor(image_processor, tokenizer)
    return _save(transformers.SiglipModel, config, processor, folder, seed)


def save_siglip2(folder: Path | str, seed: int = 0) -> Path:
    """A tiny SigLIP 2 that keeps the shape of pictures (NaFlex)."""
    tokenizer = _gemma_tokenizer()
    config = transformers.Siglip2Config(
        vision_config={**_SMALL, "num_patches": 16, "patch_size": _PATCH},
        text_config={**_siglip_text(tokenizer), "projection_size": 64},
    )
    image_processor = transformers.Siglip2ImageProcessor(patch_size=_PATCH, max_num_patches=16)
    processor = transformers.Siglip2Processor(image_processor, tokenizer)
    return _save(transformers.Siglip2Model, config, processor, folder, seed)


def save_blip(folder: Path | str, seed: int = 0) -> Path:
    """A tiny BLIP that writes captions, with a BERT tokenizer."""
    tokenizer = _bert_tokenizer()
    config = transformers.BlipConfig(
        projection_dim=32,
        image_text_hidden_size=32,
        vision_config={
            **_SMALL,
            "image_size": IMAGE_SIZE,
            "patch_size": _PATCH,
            "initializer_range": _LIVELY,
        },
        text_config={
            **_SMALL,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 128,
            "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": _LIVELY,
        },
    )
    processor = transformers.BlipProcessor(transformers.BlipImageProcessor(size=_SQUARE), tokenizer)
    return _save(transformers.BlipForConditionalGeneration, config, processor, folder, seed)


def save_florence2(folder: Path | str, seed: int = 0) -> Path:
    """A tiny Florence-2, with a BART tokenizer."""
    tokenizer = _bart_tokenizer()
    width = 32
    config = transformers.Florence2Config(
        vision_config={
            "depths": (1, 1),
            "patch_size": (7, 3),
            "patch_stride": (8, 2),
            "patch_padding": (3, 1),
            "patch_prenorm": (False, True),
            "embed_dim": (16, width),
            "num_heads": (2, 4),
            "num_groups": (2, 4),
            "window_size": 4,
            "projection_dim": width,
            "initializer_range": _LIVELY,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": width,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 256,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "decoder_start_token_id": tokenizer.eos_token_id,
            "forced_eos_token_id": tokenizer.eos_token_id,
            "init_std": _LIVELY,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_processor = transformers.CLIPImageProcessor(size=_SQUARE, crop_size=_SQUARE)
    # 64 px in strides of 8 and 2 are 4 x 4 places, and one more for all of them.
    image_processor.image_seq_length = 17
    processor = transformers.Florence2Processor(image_processor, tokenizer)
    return _save(transformers.Florence2ForConditionalGeneration, config, processor, folder, seed)


def _siglip_text(tokenizer: Any) -> dict[str, Any]:
    return {
        **_SMALL,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _save(auto: Any, config: Any, processor: Any, folder: Path | str, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto(config)
        if hasattr(model, "logit_bias"):  # SigLIP starts out with no scale, and deaf to words
            for weight in model.text_model.parameters():
                if weight.ndim > 1:
                    torch.nn.init.normal_(weight, std=_LIVELY)
            torch.nn.init.constant_(model.logit_scale, 4.0)
            torch.nn.init.constant_(model.logit_bias, -4.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def _corpus() -> Iterator[str]:
    """What is said to the models, and what they may say."""
    words = read_words()
    yield from (template.format(label) for template in TEMPLATES for label in EMOTIC_LABELS)
    for entries in (words.who, words.where, words.what, words.how):
        yield from (f"a photo of a person who {entry}" for entry in entries)


def _clip_tokenizer() -> Any:
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocab, merges = _bpe(tokenizer, [], end_of_word_suffix="</w>")
    # As in the hub's: a letter may end a word or not, and the two marks come last.
    for letter in pre_tokenizers.ByteLevel.alphabet():
        vocab.setdefault(f"{letter}</w>", len(vocab))
    for mark in ("<|startoftext|>", "<|endoftext|>"):
        vocab[mark] = len(vocab)
    return transformers.CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def _gemma_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    vocab, merges = _bpe(tokenizer, special, alphabet=())
    return transformers.GemmaTokenizer(
        vocab=vocab, merges=merges, model_input_names=["input_ids"], padding_side="right"
    )


def _bart_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab, merges = _bpe(tokenizer, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    bart = transformers.BartTokenizer(
        vocab=vocab, merges=merges, extra_special_tokens={"image_token": "<image>"}
    )
    bart.add_tokens(["<image>"], special_tokens=True)
    return bart


def _bert_tokenizer() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    bert = transformers.BertTokenizer(vocab=json.loads(tokenizer.to_str())["model"]["vocab"])
    bert.add_tokens(["[DEC]"], special_tokens=True)
    return bert


def _bpe(
    tokenizer: Any,
    special: list[str],
    alphabet: Any = None,
    **how: Any,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges that a tokenizer learns from the corpus."""
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet is None else [*alphabet],
        show_progress=False,
        **how,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    return learnt["vocab"], [tuple(merge) for merge in learnt["merges"]]
