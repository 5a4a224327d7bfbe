"""Linear heads: the cheapest way from the hidden states about a person to labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from emotion_perception.core import documents
from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS, VAD
from emotion_perception.io import atomic

_CONFIG = "head.json"
"""Key in the metadata of head.safetensors: the content of head.json."""


class Head(nn.Module):
    """Two linear layers, for labels and VAD, on the hidden states about a person."""

    def __init__(self, width: int, labels: Sequence[str] = EMOTIC_LABELS, layer: int = -1) -> None:
        """Create a head with random weights.

        Args:
            width: size of the states.
            labels: in the order of the logits.
            layer: the layer of a language model, from 0, whose states are read; -1: the output.
        """
        super().__init__()
        self.width, self.labels, self.layer = width, tuple(labels), layer
        self.label = nn.Linear(width, len(self.labels))
        self.vad = nn.Linear(width, len(VAD))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, L) and VAD (N, 3) in -1..1 from states (N, width)."""
        return self.label(pooled), torch.tanh(self.vad(pooled))

    def save(self, folder: Path | str) -> None:
        """Write head.safetensors and head.json into the folder of the model.

        Raises:
            OSError: a file cannot be written; the former files remain.
        """
        folder = atomic.make_folder(folder)
        config = {"width": self.width, "labels": self.labels, "layer": self.layer}
        text = json.dumps(config, indent=2) + "\n"
        # A kill between the two files leaves those of two heads: the tensors name their head.json.
        atomic.write_files({
            folder / "head.safetensors": to_bytes(self.state_dict(), {_CONFIG: text}),
            folder / "head.json": text.encode(),
        })  # fmt: skip

    @classmethod
    def load(cls, folder: Path | str) -> Head:
        """Load a head on the CPU, in evaluation mode.

        Raises:
            ModelError: a file is missing or damaged, or the files do not match.
        """
        folder = Path(folder)
        try:
            config = documents.read_json_object(folder / "head.json")
            with safe_open(folder / "head.safetensors", "pt") as file:
                written_with = (file.metadata() or {}).get(_CONFIG)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if written_with is not None and documents.parse_json(written_with) != config:
                raise ValueError("head.json and head.safetensors are of two heads")
            head = cls(*_read_config(config, tensors))
            head.load_state_dict(tensors)
        except (
            *(OSError, RuntimeError, SafetensorError),
            *(ValueError, TypeError, KeyError),
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"cannot use the head in {folder}: {reason}; train it again, or remove "
                "head.json and head.safetensors"
            ) from error
        return head.eval()


def _read_config(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[int, list[str], int]:
    """Return width, labels and layer of a head, whose size is that of its tensors.

    Raises:
        ValueError: a value is missing, or makes no sense.
        KeyError: a tensor is missing.
    """
    width, labels, layer = config.get("width"), config.get("labels"), config.get("layer", -1)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels = {labels!r} is not a list of texts")
    if len(set(labels)) < len(labels):
        raise ValueError("a label occurs twice")
    if type(layer) is not int or not -1 <= layer < 10_000:
        raise ValueError(f"layer = {layer!r} is not the number of a layer")
    shape = tuple(tensors["label.weight"].shape)
    if type(width) is not int or shape != (len(labels), width):
        raise ValueError(f"width = {width!r} and {len(labels)} labels do not match {shape}")
    return width, labels, layer
