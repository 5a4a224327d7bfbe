"""Linear heads: the cheapest way from the hidden states about a person to labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS, VAD
from emotion_perception.io import atomic


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
        atomic.write_files({
            folder / "head.safetensors": to_bytes(self.state_dict()),
            folder / "head.json": (json.dumps(config, indent=2) + "\n").encode(),
        })  # fmt: skip

    @classmethod
    def load(cls, folder: Path | str) -> Head:
        """Load a head on the CPU, in evaluation mode.

        Raises:
            ModelError: a file is missing or damaged, or the files do not match.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / "head.json").read_text())
            labels = [str(label) for label in config["labels"]]
            head = cls(int(config["width"]), labels, int(config.get("layer", -1)))
            head.load_state_dict(load_file(folder / "head.safetensors"))
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
