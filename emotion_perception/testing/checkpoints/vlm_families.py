"""Tiny recipes of further families of vision-language models."""

from __future__ import annotations

from typing import Any

import transformers as typed_transformers

from emotion_perception.testing.checkpoints.vlm_base import (
    INIT_STD,
    TINY_RECURRENT_TEXT,
    TINY_SIZE,
    TINY_TEXT,
    TINY_VISION,
    Recipe,
    chatml_template,
    name_tokens,
    siglip_vision,
)

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns


def _lfm2_vl(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    config = transformers.Lfm2VlConfig(
        text_config={"model_type": "lfm2", **recipe.text},
        vision_config={"model_type": "siglip2_vision_model", **recipe.vision, "num_patches": 64},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    processor = transformers.Lfm2VlProcessor(
        image_processor=transformers.Lfm2VlImageProcessor(
            tile_size=64, min_image_tokens=4, max_image_tokens=16
        ),
        tokenizer=tokenizer,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _minicpm(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    names = ("image", "image_start", "image_end", "slice_start", "slice_end", "video")
    tokens = {f"{name}_token": f"<{name}>" for name in names}
    name_tokens(
        tokenizer, **tokens, image_id_start_token="<image_id>", image_id_end_token="</image_id>"
    )
    config = transformers.MiniCPMV4_6Config(
        text_config={"model_type": "qwen3_5_text", **recipe.text},
        vision_config=recipe.vision,
        insert_layer_id=0,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    processor = transformers.MiniCPMV4_6Processor(
        image_processor=transformers.MiniCPMV4_6ImageProcessor(
            scale_resolution=112, slice_mode=False
        ),
        video_processor=transformers.MiniCPMV4_6VideoProcessor(),
        tokenizer=tokenizer,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _paligemma(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    config = transformers.PaliGemmaConfig(
        text_config={"model_type": "gemma", **recipe.text},
        vision_config=siglip_vision(recipe),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=recipe.text["hidden_size"],
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    image_processor = transformers.SiglipImageProcessor(size=TINY_SIZE)
    image_processor.image_seq_length = 16
    tokenizer.bos_token = "<|im_start|>"
    processor = transformers.PaliGemmaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _video_llama_3(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    name_tokens(tokenizer, image_token="<image>", video_token="<video>")
    config = transformers.VideoLlama3Config(
        text_config={"model_type": "qwen2", **recipe.text},
        vision_config=recipe.vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    processor = transformers.VideoLlama3Processor(
        image_processor=transformers.VideoLlama3ImageProcessor(
            patch_size=recipe.vision["patch_size"], merge_size=1
        ),
        tokenizer=tokenizer,
        video_processor=transformers.VideoLlama3VideoProcessor(),
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _glm4v(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    ids = {
        f"{part}{kind}_{suffix}": tokenizer.convert_tokens_to_ids(f"<|{word}{kind}|>")
        for kind in ("image", "video")
        for part, suffix, word in (
            ("", "token_id", ""),
            ("", "start_token_id", "begin_of_"),
            ("", "end_token_id", "end_of_"),
        )
    }
    patch, merge = recipe.vision["patch_size"], recipe.vision["spatial_merge_size"]
    config = transformers.Glm4vConfig(
        text_config=recipe.text,
        vision_config=recipe.vision,
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
        **ids,
    )
    processor = transformers.Glm4vProcessor(
        image_processor=transformers.Glm4vImageProcessor(
            patch_size=patch,
            merge_size=merge,
            size={
                "shortest_edge": 4 * (merge * patch) ** 2,
                "longest_edge": 1280 * (merge * patch) ** 2,
            },
        ),
        tokenizer=tokenizer,
        video_processor=transformers.Glm4vVideoProcessor(),
        chat_template=chatml_template("<|begin_of_image|><|image|><|end_of_image|>"),
    )
    return config, processor


def _deepseek_vl(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    name_tokens(tokenizer, image_token="<image>")
    config = transformers.DeepseekVLConfig(
        text_config={"model_type": "llama", **recipe.text},
        vision_config=siglip_vision(recipe),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    side, patch = recipe.vision["image_size"], recipe.vision["patch_size"]
    processor = transformers.DeepseekVLProcessor(
        image_processor=transformers.DeepseekVLImageProcessor(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        num_image_tokens=(side // patch) ** 2,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _gemma4(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    names = ("boi", "eoi", "image", "audio", "boa", "eoa", "video")
    name_tokens(tokenizer, **{f"{name}_token": f"<{name}>" for name in names})
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<{name}>") for name in names}
    ids["eoa_token_index"] = ids.pop("eoa_token_id")
    rows = recipe.text["vocab_size"]
    config = transformers.Gemma4Config(
        text_config={**recipe.text, "vocab_size_per_layer_input": rows},
        vision_config=recipe.vision,
        audio_config=None,
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
        **ids,
    )
    sizes = {"patch_size": 16, "pooling_kernel_size": 2, "max_soft_tokens": 70}
    processor = transformers.Gemma4Processor(
        image_processor=transformers.Gemma4ImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=transformers.Gemma4VideoProcessor(**sizes),
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_seq_length=70,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _granite_docling(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    config = transformers.GraniteDoclingConfig(
        text_config=recipe.text,
        vision_config=recipe.vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    side, patch = recipe.vision["image_size"], recipe.vision["patch_size"]
    processor = transformers.GraniteDoclingProcessor(
        image_processor=transformers.GraniteDoclingImageProcessor(
            size={"height": side, "width": side}
        ),
        tokenizer=tokenizer,
        image_seq_len=(side // patch // recipe.vision["scale_factor"]) ** 2,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _ovis2(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    around = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    config = transformers.Ovis2Config(
        text_config={"model_type": "qwen2", **recipe.text},
        vision_config=recipe.vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(list(around)),
        vocab_size=recipe.text["vocab_size"],
        hidden_size=recipe.text["hidden_size"],
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    side, patch = recipe.vision["image_size"], recipe.vision["patch_size"]
    processor = transformers.Ovis2Processor(
        image_processor=transformers.Ovis2ImageProcessor(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        image_seq_length=(side // patch // recipe.vision["hidden_stride"]) ** 2,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _janus(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    name_tokens(tokenizer, image_token="<image>", boi_token="<boi>", eoi_token="<eoi>")
    side, patch = recipe.vision["image_size"], recipe.vision["patch_size"]
    tokens, width = (side // patch) ** 2, recipe.text["hidden_size"]
    config = transformers.JanusConfig(
        text_config={"model_type": "llama", **recipe.text},
        vision_config={**recipe.vision, "projection_dim": width, "num_image_tokens": tokens},
        vq_config={  # of the images that Janus generates; not used here
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "latent_channels": 32,
            "num_embeddings": 8,
            "projection_dim": width,
            "image_token_embed_dim": width,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    processor = transformers.JanusProcessor(
        image_processor=transformers.JanusImageProcessor(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        num_image_tokens=tokens,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


def _cohere2_vision(recipe: Recipe, tokenizer: Any) -> tuple[Any, Any]:
    names = ("image", "boi", "eoi", "img_line_break")
    name_tokens(tokenizer, **{f"{name}_token": f"<{name}>" for name in names})
    config = transformers.Cohere2VisionConfig(
        text_config={"model_type": "cohere2", **recipe.text},
        vision_config=siglip_vision(recipe),
        downsample_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        alignment_intermediate_size=64,
        tie_word_embeddings=recipe.text["tie_word_embeddings"],
    )
    side, patch = recipe.vision["image_size"], recipe.vision["patch_size"]
    processor = transformers.Cohere2VisionProcessor(
        image_processor=transformers.Cohere2VisionImageProcessor(
            size={"height": side, "width": side},
            patch_size=side // patch // 2,  # tokens along a side
        ),
        tokenizer=tokenizer,
        chat_template=chatml_template("<image>"),
    )
    return config, processor


RECIPES: dict[str, Recipe] = {
    "lfm2_vl": Recipe(
        {**TINY_TEXT, "layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 128},
        TINY_VISION,
        _lfm2_vl,
        ("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"),
    ),
    "minicpmv4_6": Recipe(
        TINY_RECURRENT_TEXT,
        {**TINY_VISION, "patch_size": 14},
        _minicpm,
        (
            *("<image>", "<image_start>", "<image_end>", "<slice_start>", "<slice_end>"),
            *("<video>", "<image_id>", "</image_id>"),
        ),
    ),
    "paligemma": Recipe({**TINY_TEXT, "head_dim": 16}, TINY_VISION, _paligemma, ("<image>",)),
    "video_llama_3": Recipe(
        TINY_TEXT,
        {key: value for key, value in TINY_VISION.items() if key != "image_size"},
        _video_llama_3,
        ("<image>", "<video>"),
    ),
    "glm4v": Recipe(
        {
            **TINY_TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
                "partial_rotary_factor": 1.0,
            },
        },
        {
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "out_hidden_size": 64,
            "intermediate_size": 64,
            "spatial_merge_size": 2,
            "initializer_range": INIT_STD,
        },
        _glm4v,
        (
            *("<|image|>", "<|begin_of_image|>", "<|end_of_image|>"),
            *("<|video|>", "<|begin_of_video|>", "<|end_of_video|>"),
        ),
    ),
    "gemma4": Recipe(
        {
            **TINY_TEXT,
            "num_hidden_layers": 6,
            "head_dim": 16,
            "global_head_dim": 32,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "final_logit_softcapping": 3.0,
            "use_bidirectional_attention": "vision",
        },
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 16,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
            "initializer_range": INIT_STD,
        },
        _gemma4,
        ("<boi>", "<eoi>", "<image>", "<audio>", "<boa>", "<eoa>", "<video>"),
    ),
    "deepseek_vl": Recipe(TINY_TEXT, TINY_VISION, _deepseek_vl, ("<image>",)),
    "granite_docling": Recipe(
        TINY_TEXT,
        {
            **TINY_VISION,
            "scale_factor": 2,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
        },
        _granite_docling,
        ("<image>", "<fake_token_around_image>", "<global-img>"),
    ),
    "ovis2": Recipe(
        TINY_TEXT,
        {**TINY_VISION, "hidden_stride": 2, "vocab_size": 64},
        _ovis2,
        (
            *("<image>", "<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>"),
            *("<IMG_ROW>", "<IMG_END>"),
        ),
    ),
    "janus": Recipe(
        TINY_TEXT,
        {**TINY_VISION, "mlp_ratio": 2.0},
        _janus,
        ("<image>", "<boi>", "<eoi>"),
    ),
    "cohere2_vision": Recipe(
        {
            **TINY_TEXT,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        TINY_VISION,
        _cohere2_vision,
        ("<image>", "<boi>", "<eoi>", "<img_line_break>"),
    ),
}
"""Name to recipe."""
