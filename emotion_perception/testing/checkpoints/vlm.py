"""Vision-language models: tiny ones of each family for tests, two of real size for benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers
from tokenizers import AddedToken

from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.recognizers.vlm import prompts
from emotion_perception.testing.checkpoints import vlm_families
from emotion_perception.testing.checkpoints.base import randomize_zero_weights, save_checkpoint
from emotion_perception.testing.checkpoints.vlm_base import (
    INIT_STD,
    TINY_RECURRENT_TEXT,
    TINY_SIZE,
    TINY_TEXT,
    TINY_VISION,
    Arguments,
    Recipe,
    chatml_template,
    name_tokens,
    siglip_vision,
)

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

_CHAT = ("<|im_start|>", "<|im_end|>")

SMOLVLM_CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def _smolvlm(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    side, patch = recipe.vision["image_size"], recipe.vision["patch_size"]
    scale = 4 if side == 512 else 2
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **recipe.text},
        vision_config=recipe.vision,
        scale_factor=scale,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    sizes = {"size": {"longest_edge": 4 * side}, "max_image_size": {"longest_edge": side}}
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(**sizes),
        image_seq_len=(side // patch // scale) ** 2,
        chat_template=SMOLVLM_CHAT,
    )
    return config, processor


def _idefics3(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **recipe.text},
        vision_config=recipe.vision,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    processor = transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(
            size={"longest_edge": 256}, max_image_size={"longest_edge": 64}
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=SMOLVLM_CHAT,
    )
    return config, processor


def _internvl(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    name_tokens(
        tokenizer,
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **recipe.text},
        vision_config={**recipe.vision, "image_size": [64, 64], "patch_size": [16, 16]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=TINY_SIZE, crop_to_patches=True),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=TINY_SIZE),
        image_seq_length=4,
        chat_template=chatml_template("<IMG_CONTEXT>"),
    )
    return config, processor


def _llava(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    """Return LLaVA-1.5, VipLlava or LLaVA-NeXT, whose image processors crop the centre square."""
    side, patch = recipe.vision["image_size"], recipe.vision["patch_size"]
    tiles = {"image_grid_pinpoints": [[side, 2 * side], [2 * side, side]]}
    vipllava, next_ = recipe.version == "VipLlava", recipe.version == "LlavaNext"
    layers = {"vision_feature_layers": [-2, -1]} if vipllava else {}
    config = getattr(transformers, f"{recipe.version}Config")(
        text_config={"model_type": "llama", **recipe.text},
        vision_config={"model_type": "clip_vision_model", **recipe.vision},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
        **layers,
        **(tiles if next_ else {}),
    )
    sizes = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        **(tiles if next_ else {}),
    }
    images = "LlavaNext" if next_ else "CLIP"  # as in the published files
    processor = getattr(transformers, f"{'LlavaNext' if next_ else 'Llava'}Processor")(
        image_processor=getattr(transformers, f"{images}ImageProcessor")(**sizes),
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _llava_onevision(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    tiles = [[64, 64], [64, 128], [128, 64], [128, 128]]
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **recipe.text},
        vision_config=siglip_vision(recipe),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=tiles,
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            size=TINY_SIZE, image_grid_pinpoints=tiles
        ),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=TINY_SIZE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _gemma3(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    name_tokens(tokenizer, boi_token="<boi>", eoi_token="<eoi>", image_token="<soft>")
    config = transformers.Gemma3Config(
        text_config=recipe.text,
        vision_config=siglip_vision(recipe),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<soft>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<boi>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<eoi>"),
    )
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size=TINY_SIZE),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=chatml_template("<boi>"),
    )
    return config, processor


def _qwen(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    version = recipe.version
    patch = recipe.vision["patch_size"]
    tokens = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    config = getattr(transformers, f"{version}Config")(
        text_config=recipe.text,
        vision_config=recipe.vision,
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
        **tokens,
    )
    videos = "Qwen2VL" if version.startswith("Qwen2") else "Qwen3VL"
    processor = getattr(transformers, f"{version.replace('3_5', '3VL')}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(
            patch_size=patch,
            merge_size=2,
            size={"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 1280 * (2 * patch) ** 2},
        ),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, f"{videos}VideoProcessor")(
            patch_size=patch, merge_size=2
        ),
        chat_template=chatml_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return config, processor


_TINY_QWEN_VISION: Arguments = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "depth": 4,
    "num_heads": 2,
    "out_hidden_size": 64,
    "spatial_merge_size": 2,
    "initializer_range": INIT_STD,
}
_SMOLVLM_SPECIAL = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_QWEN_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

RECIPES: dict[str, Recipe] = {
    "smolvlm": Recipe(TINY_TEXT, {**TINY_VISION, "image_size": 128}, _smolvlm, _SMOLVLM_SPECIAL),
    "idefics3": Recipe(TINY_TEXT, TINY_VISION, _idefics3, _SMOLVLM_SPECIAL),
    "internvl": Recipe(
        TINY_TEXT, TINY_VISION, _internvl, ("<img>", "</img>", "<IMG_CONTEXT>", "<video>")
    ),
    **{
        name: Recipe(TINY_TEXT, TINY_VISION, _llava, ("<image>",), version=version)
        for name, version in (
            *(("llava", "Llava"), ("llava_next", "LlavaNext")),
            ("vipllava", "VipLlava"),
        )
    },
    "llava_onevision": Recipe(TINY_TEXT, TINY_VISION, _llava_onevision, ("<image>", "<video>")),
    "gemma3": Recipe(
        {
            **TINY_TEXT,
            "head_dim": 16,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        TINY_VISION,
        _gemma3,
        ("<boi>", "<eoi>", "<soft>"),
    ),
    "qwen2_vl": Recipe(
        {**TINY_TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
        {
            "embed_dim": 32,
            "hidden_size": 64,
            "depth": 2,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "initializer_range": INIT_STD,
        },
        _qwen,
        _QWEN_SPECIAL,
        version="Qwen2VL",
    ),
    "qwen2_5_vl": Recipe(
        {**TINY_TEXT, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}},
        {
            **_TINY_QWEN_VISION,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1, 3],
        },
        _qwen,
        _QWEN_SPECIAL,
        version="Qwen2_5_VL",
    ),
    "qwen3_vl": Recipe(
        {
            **TINY_TEXT,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [8, 4, 4],
                "mrope_interleaved": True,
            },
        },
        {**_TINY_QWEN_VISION, "patch_size": 16, "deepstack_visual_indexes": [0, 1, 2]},
        _qwen,
        _QWEN_SPECIAL,
        version="Qwen3VL",
    ),
    "qwen3_5": Recipe(
        {
            **TINY_RECURRENT_TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "partial_rotary_factor": 1.0,
                "mrope_section": [8, 4, 4],
                "mrope_interleaved": True,
            },
        },
        {**_TINY_QWEN_VISION, "patch_size": 16},
        _qwen,
        _QWEN_SPECIAL,
        version="Qwen3_5",
    ),
    **vlm_families.RECIPES,
    "SmolVLM2-500M": Recipe(
        {
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
            "tie_word_embeddings": False,
        },
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        _smolvlm,
        _SMOLVLM_SPECIAL,
        vocabulary=49280,
    ),
    "Qwen3-VL-2B": Recipe(
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
        },
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "depth": 24,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "spatial_merge_size": 2,
            "patch_size": 16,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        _qwen,
        _QWEN_SPECIAL,
        version="Qwen3VL",
        vocabulary=151936,
    ),
}
"""Name to recipe."""


def save_tiny(family: str, folder: Path | str, seed: int = 0) -> Path:
    """Save a small random model of a family in about one second.

    Raises:
        ValueError: There is no recipe of that name.
    """
    return save_random(family, folder, seed)


def save_random(
    name: str, folder: Path | str, seed: int = 0, dtype: str = "float32", device: str = "cpu"
) -> Path:
    """Save a random model.

    Args:
        name: A key of `RECIPES`.
        folder: The folder to write.
        seed: Seed of the weights.
        dtype: Name of the torch type of the weights.
        device: Where the model is created.

    Raises:
        ValueError: There is no recipe of that name.
    """
    if name not in RECIPES:
        raise ValueError(f"cannot build {name!r}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    tokenizer = train_tokenizer(recipe.special)
    rows = recipe.vocabulary or len(tokenizer)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    sized = replace(recipe, text={**recipe.text, "vocab_size": rows, **special})
    config, processor = recipe.build(sized, tokenizer)
    auto = transformers.AutoModelForImageTextToText
    return save_checkpoint(
        lambda: auto.from_config(config, dtype=getattr(torch, dtype)),
        processor,
        folder,
        seed,
        lambda model: randomize_zero_weights(model, INIT_STD),
        device,
    )


def train_tokenizer(special: Sequence[str], texts: Sequence[str] = ()) -> Any:
    """Train a byte-level BPE tokenizer that has a token for nearly every word of the prompts.

    Args:
        special: Special tokens besides those of the chat template.
        texts: The texts to train on; default: the prompts of this package.
    """
    corpus = list(texts) or _all_prompts()
    corpus += _CHAT_WORDS * 9
    tokenizer: Any = transformers.Qwen2Tokenizer().train_new_from_iterator(
        corpus, vocab_size=2000, show_progress=False
    )
    tokenizer.add_tokens([AddedToken(t, special=True) for t in (*_CHAT, *special)])
    tokenizer.eos_token = _CHAT[1]
    return tokenizer


def _all_prompts() -> list[str]:
    corpus = [prompts.glossary(recognizer_settings())]
    for view in ("both", "mark", "crop"):
        for answer_format in ("turn", "continuation"):
            settings = recognizer_settings(
                person_view=view, definitions="question", answer_format=answer_format
            )
            for question in prompts.label_questions(settings) + prompts.vad_questions(settings):
                (message,) = prompts.messages(settings, question.text)
                corpus += [line["text"] for line in message["content"] if line["type"] == "text"]
                corpus.append(question.answer_prefix)
    return corpus


_CHAT_WORDS = [
    "Yes", "No", "yes", "no", " Yes", " No", "User", "Assistant", "user", "assistant",
    *prompts.DIGITS,
]  # fmt: skip
