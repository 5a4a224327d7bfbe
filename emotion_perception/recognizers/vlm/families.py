"""Which families of vision-language models can be packed, and why the others cannot."""

from __future__ import annotations

from typing import Any

from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.recognizers.vlm import attention, packing

FAMILIES: dict[str, packing.PositionRule] = {
    "smolvlm": packing.linear_positions,
    "idefics3": packing.linear_positions,
    "internvl": packing.linear_positions,
    "llava": packing.linear_positions,
    "vipllava": packing.linear_positions,
    "llava_next": packing.linear_positions,
    "llava_onevision": packing.linear_positions,
    "video_llama_3": packing.linear_positions,
    "deepseek_vl": packing.linear_positions,
    "gemma3": packing.linear_positions,
    "gemma4": packing.linear_positions,
    "granite_docling": packing.linear_positions,
    "janus": packing.linear_positions,
    "cohere2_vision": packing.linear_positions,
    "glm4v": packing.mrope_positions,
    "qwen2_vl": packing.mrope_positions,
    "qwen2_5_vl": packing.mrope_positions,
    "qwen3_vl": packing.mrope_positions,
}
"""The families (`model_type`) that can be packed, and how they number positions.

A packed pass gives the answers of one prompt at a time; the packing tests check each family. Gemma
3 and 4 have windows and image tokens that attend to each other, so each kind of their layers has a
mask of its own (`attention.layer_kinds`). Where the table has no entry, prompts are read from forks
of a cache if that is exact (`forking.py`):

    qwen3_5       most layers are recurrent: branches would influence each other; forked
    minicpmv4_6   like qwen3_5; forked
    lfm2_vl       convolution layers: like qwen3_5; forked
    ovis2         the token before an image has another embedding once the pass has images, so the
                  text before the first image cannot be read without them; forked
    paligemma     the whole prompt is read in both directions, so the scene depends on the question
                  (tried: another last word changes the hidden states of all words before it);
                  neither packed nor forked
    mllama        images enter by cross-attention, which has a mask of its own; not tried
    fast_vlm, perception_lm    their vision towers need timm; not tried
    others        not tried
"""

COUNTS_IMAGES = ("llava_onevision",)
"""Families whose processor prepares an image otherwise if there is another one."""


def why_not_packed(model: Any, settings: VlmSettings) -> str:
    """Return why a model is asked one person at a time; empty if it can be packed."""
    if model.config.model_type not in FAMILIES:
        return f"the family {model.config.model_type} is not known to give the same answers packed"
    if reason := attention.why_not_attention_only(model):
        return reason
    kind = model.config.get_text_config()._attn_implementation
    if kind != "sdpa":
        return f"{kind} attention does not take a mask of its own"
    if model.config.model_type == "llava_onevision" and settings.person_view != "both":
        return "LLaVA-OneVision cuts a single image into tiles, and one of several images not"
    return ""
