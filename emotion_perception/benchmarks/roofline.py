"""The operations of a packed round, and the time that a device needs for them at least."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from emotion_perception.recognizers.vlm.packing import Workload

MATRIX_PEAKS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "Orin": 42.5e12,
}
"""Dense 16-bit operations per second by the data sheets; the key is a part of the device's name."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """The operations of a packed round, counted from the shapes, and the rates of the device."""

    vision_parameters: int
    language_parameters: int
    """Without the embedding, which is a table look-up."""
    patches: int
    tokens: int
    cached_tokens: int
    attended_pairs: int
    operations: float
    rate: float
    """Operations per second of a large matrix product, measured on this device."""
    data_sheet_rate: float | None

    @classmethod
    def count(
        cls, model: Any, work: Workload, rate: float, data_sheet_rate: float | None
    ) -> Roofline:
        """Count the operations of a round.

        Each weight takes 2 operations per token, a multiplication and an addition. Attention takes
        4 per pair of tokens, head dimension, head and layer: 2 for the scores, 2 for the values.
        """
        config = model.config.get_text_config()
        vision = model.config.vision_config
        depth = getattr(vision, "num_hidden_layers", None) or vision.depth
        embedding = model.get_input_embeddings().weight.numel()
        head = model.get_output_embeddings().weight
        text = model.model.get_decoder() if hasattr(model.model, "get_decoder") else model.model
        all_parameters = sum(weight.numel() for weight in model.model.parameters())
        language = sum(weight.numel() for weight in text.parameters()) - embedding
        joints = ("merger", "connector", "projector")  # work on tokens, not on patches
        joining = sum(
            weight.numel()
            for name, weight in model.model.named_parameters()
            if any(joint in name for joint in joints)
        )
        vision_parameters = all_parameters - language - embedding - joining
        head_size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        operations = (
            2 * vision_parameters * sum(work.patches)
            + 2 * joining * sum(work.image_tokens)
            + 4 * vision.hidden_size * depth * sum(n * n for n in work.patches)
            + 2 * language * work.tokens
            + 4
            * config.num_attention_heads
            * head_size
            * config.num_hidden_layers
            * work.attended_pairs
            + 2 * head.shape[1] * work.head_rows * work.answers
        )
        return cls(
            vision_parameters=vision_parameters + joining,
            language_parameters=language,
            patches=sum(work.patches),
            tokens=work.tokens,
            cached_tokens=work.cached_tokens,
            attended_pairs=round(work.attended_pairs),
            operations=float(operations),
            rate=rate,
            data_sheet_rate=data_sheet_rate,
        )

    def to_json(self, seconds: float) -> dict[str, Any]:
        """Return the counts, and the share of the limit that a round of `seconds` reached."""
        sheet = self.data_sheet_rate
        return {
            "vision_parameters": self.vision_parameters,
            "language_parameters": self.language_parameters,
            "patches": self.patches,
            "tokens": self.tokens,
            "cached_tokens": self.cached_tokens,
            "attended_pairs": self.attended_pairs,
            "tera_operations": self.operations / 1e12,
            "matrix_tera_operations_per_second": self.rate / 1e12,
            "limit_milliseconds": self.operations / self.rate * 1e3,
            "share_of_limit": self.operations / self.rate / seconds,
            "share_of_data_sheet": sheet and self.operations / sheet / seconds,
        }


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Measure the operations per second of a large matrix product."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def data_sheet_peak(device: str) -> float | None:
    """Return the data sheet's rate of the GPU in use; None for a CPU or a GPU not listed."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in MATRIX_PEAKS.items() if part in name), None)
