"""Linear heads: the cheapest way from what a model made of a person to labels."""

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
    """Labels and VAD from what a model made of a person: a linear layer each."""

    def __init__(self, width: int, labels: Sequence[str] = EMOTIC_LABELS, layer: int = -1) -> None:
        """
        Args:
            width: of what it reads.
            labels: what it tells, in the order of its logits.
            layer: of a language model, counted from 0, whose states it reads; -1: the output.
        """
        super().__init__()
        self.width, self.labels, self.layer = width, tuple(labels), layer
        self.label = nn.Linear(width, len(self.labels))
        self.vad = nn.Linear(width, len(VAD))

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, L) and VAD (N, 3) in -1..1 from (N, width)."""
        return self.label(pooled), torch.tanh(self.vad(pooled))

    def save(self, folder: Path | str) -> None:
        """Write head.safetensors and head.json into the folder of the model.

        Raises:
            OSError: they cannot be written; what was there before stays.
        """
        folder = atomic.make_folder(folder)
        config = {"width": self.width, "labels": self.labels, "layer": self.layer}
        atomic.write_files({
            folder / "head.safetensors": to_bytes(self.state_dict()),
            folder / "head.json": (json.dumps(config, indent=2) + "\n").encode(),
        })  # fmt: skip

    @classmethod
    def load(cls, folder: Path | str) -> Head:
        """The inverse of `save`, on the CPU and ready to answer.

        Raises:
            ModelError: a file of the head is missing or damaged, or they do not fit each other.
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
                f"the head in {folder} cannot be used ({reason}): train it again, or take away "
                "head.json and head.safetensors to do without"
            ) from error
        return head.eval()
