"""Tiny RF-DETR and D-FINE with random weights: they detect, but not people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers

from emotion_perception.testing.checkpoints.base import save_checkpoint

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

IMAGE_SIZE = 128
"""Side, in pixels, of the square input image of each model."""

NAMES = {0: "bus", 1: "person"}

_QUERIES = 16
_WIDTH = 32
_INIT_STD = 0.2
"""Standard deviation of the weights; at the usual 0.02 the output hardly depends on the input."""


def save_rf_detr(folder: Path | str, seed: int = 0) -> Path:
    """Save a tiny RF-DETR, whose images have sides of multiples of 32 px."""
    config = transformers.RfDetrConfig(
        backbone_config={
            "model_type": "rf_detr_dinov2",
            "hidden_size": _WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": IMAGE_SIZE,
            "patch_size": 16,
            "num_windows": 2,
            "out_indices": [1, 2],
        },
        d_model=_WIDTH,
        decoder_ffn_dim=64,
        decoder_layers=1,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=_QUERIES,
        group_detr=1,
        id2label=NAMES,
    )
    return _save(
        lambda: transformers.RfDetrForObjectDetection(config),
        transformers.RfDetrImageProcessor(size=_size()),
        folder,
        seed,
    )


def save_d_fine(folder: Path | str, seed: int = 0) -> Path:
    """Save a tiny D-FINE, whose images have sides of multiples of 32 px."""
    channels = [_WIDTH, _WIDTH, _WIDTH]
    config = transformers.DFineConfig(
        backbone_config={
            "model_type": "hgnet_v2",
            "out_indices": [2, 3, 4],
            "stem_channels": [3, 16, 16],
            "embedding_size": 16,
            "hidden_sizes": [16, *channels],
            "depths": [1, 1, 1, 1],
            "stage_in_channels": [16, 16, _WIDTH, _WIDTH],
            "stage_mid_channels": [16, 16, 16, 16],
            "stage_out_channels": [16, *channels],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [1, 1, 1, 1],
        },
        encoder_in_channels=channels,
        encoder_hidden_dim=_WIDTH,
        encoder_ffn_dim=64,
        encoder_attention_heads=2,
        d_model=_WIDTH,
        decoder_in_channels=channels,
        decoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_queries=_QUERIES,
        num_denoising=0,
        id2label=NAMES,
    )
    return _save(
        lambda: transformers.DFineForObjectDetection(config),
        transformers.RTDetrImageProcessor(size=_size()),
        folder,
        seed,
    )


def _size() -> dict[str, int]:
    return {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def _save(create: Callable[[], Any], processor: Any, folder: Path | str, seed: int) -> Path:
    return save_checkpoint(create, processor, folder, seed, _detect_something)


def _detect_something(model: Any) -> None:
    """Set the scores of the model, which are below 0.1 for each box at first."""
    for name, weight in model.named_parameters():
        if "class_embed" in name or "score_head" in name:
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=_INIT_STD)
            else:
                torch.nn.init.constant_(weight, 0.0)
