"""Tiny CLIP and SigLIP, which match texts and images, and BLIP and Florence-2, which caption."""

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
from emotion_perception.testing.checkpoints.base import save_checkpoint, train_bpe

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

IMAGE_SIZE = 64
"""Side, in pixels, of the square input image of each model."""

_PATCH = 16
_VOCABULARY = 800
_INIT_STD = 0.2
"""Standard deviation of the weights; at the usual 0.02 the output hardly depends on the input."""

_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_SQUARE = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
_SHORTEST_EDGE = {"shortest_edge": IMAGE_SIZE}


def save_clip(folder: Path | str, seed: int = 0) -> Path:
    """Save a tiny CLIP, whose processor crops the centre square of an image."""
    tokenizer = _clip_tokenizer()
    tower = {**_TINY, "initializer_factor": 5.0}
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
    image_processor = transformers.CLIPImageProcessor(size=_SHORTEST_EDGE, crop_size=_SQUARE)
    processor = transformers.CLIPProcessor(image_processor, tokenizer)
    return _save(transformers.CLIPModel, config, processor, folder, seed)


def save_siglip(folder: Path | str, seed: int = 0) -> Path:
    """Save a tiny SigLIP 2 with a fixed image size: classes of SigLIP, tokenizer of Gemma."""
    tokenizer = _gemma_tokenizer()
    config = transformers.SiglipConfig(
        vision_config={**_TINY, "image_size": IMAGE_SIZE, "patch_size": _PATCH},
        text_config={**_siglip_text(tokenizer), "projection_size": 64},
    )
    image_processor = transformers.SiglipImageProcessor(size=_SQUARE)
    processor = transformers.SiglipProcessor(image_processor, tokenizer)
    return _save(transformers.SiglipModel, config, processor, folder, seed)


def save_siglip2(folder: Path | str, seed: int = 0) -> Path:
    """Save a tiny SigLIP 2 that keeps the aspect ratio of images (NaFlex)."""
    tokenizer = _gemma_tokenizer()
    config = transformers.Siglip2Config(
        vision_config={**_TINY, "num_patches": 16, "patch_size": _PATCH},
        text_config={**_siglip_text(tokenizer), "projection_size": 64},
    )
    image_processor = transformers.Siglip2ImageProcessor(patch_size=_PATCH, max_num_patches=16)
    processor = transformers.Siglip2Processor(image_processor, tokenizer)
    return _save(transformers.Siglip2Model, config, processor, folder, seed)


def save_blip(folder: Path | str, seed: int = 0) -> Path:
    """Save a tiny BLIP for captioning with a BERT tokenizer."""
    tokenizer = _bert_tokenizer()
    config = transformers.BlipConfig(
        projection_dim=32,
        image_text_hidden_size=32,
        vision_config={
            **_TINY,
            "image_size": IMAGE_SIZE,
            "patch_size": _PATCH,
            "initializer_range": _INIT_STD,
        },
        text_config={
            **_TINY,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 128,
            "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
            "eos_token_id": tokenizer.sep_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": _INIT_STD,
        },
    )
    processor = transformers.BlipProcessor(transformers.BlipImageProcessor(size=_SQUARE), tokenizer)
    return _save(transformers.BlipForConditionalGeneration, config, processor, folder, seed)


def save_florence2(folder: Path | str, seed: int = 0) -> Path:
    """Save a tiny Florence-2 with a BART tokenizer."""
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
            "initializer_range": _INIT_STD,
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
            "init_std": _INIT_STD,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_processor = transformers.CLIPImageProcessor(size=_SQUARE, crop_size=_SQUARE)
    # 64 px with strides of 8 and 2 give 4 x 4 tokens, plus one for the whole image.
    image_processor.image_seq_length = 17
    processor = transformers.Florence2Processor(image_processor, tokenizer)
    return _save(transformers.Florence2ForConditionalGeneration, config, processor, folder, seed)


def _siglip_text(tokenizer: Any) -> dict[str, Any]:
    return {
        **_TINY,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 64,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _save(model_class: Any, config: Any, processor: Any, folder: Path | str, seed: int) -> Path:
    return save_checkpoint(lambda: model_class(config), processor, folder, seed, _adjust_siglip)


def _adjust_siglip(model: Any) -> None:
    """Set scale, bias and text weights of SigLIP, which does not distinguish texts initially."""
    if not hasattr(model, "logit_bias"):
        return
    for weight in model.text_model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=_INIT_STD)
    torch.nn.init.constant_(model.logit_scale, 4.0)
    torch.nn.init.constant_(model.logit_bias, -4.0)


def _corpus() -> Iterator[str]:
    """Yield the texts that the models read and write."""
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
    vocab, merges = train_bpe(tokenizer, _corpus(), _VOCABULARY, [], end_of_word_suffix="</w>")
    # As in the published vocabulary: each letter also as the end of a word, special tokens last.
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
    vocab, merges = train_bpe(tokenizer, _corpus(), _VOCABULARY, special, alphabet=())
    return transformers.GemmaTokenizer(
        vocab=vocab, merges=merges, model_input_names=["input_ids"], padding_side="right"
    )


def _bart_tokenizer() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab, merges = train_bpe(tokenizer, _corpus(), _VOCABULARY, special)
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
