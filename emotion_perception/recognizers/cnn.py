"""The convolutional baseline: one network reads the crop of a person, another the scene image.

Architecture, sizes and loss: Kosti et al., "Context Based Emotion Recognition using EMOTIC
Dataset", TPAMI 2019. The original starts from weights trained on ImageNet and Places. Here the
weights start at random, because nothing is downloaded. Pretrained weights can be loaded: `context`
and `body` of `EmoticCnn` are networks of torchvision without their last layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss
from torchvision.models import resnet18, resnet50

from emotion_perception.core import documents
from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS, VAD
from emotion_perception.core.recognizer_settings import CnnSettings
from emotion_perception.core.values import (
    Assessment,
    Box,
    FloatArray,
    ImageArray,
    Scene,
    Track,
    Vad,
)
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.base import assess_visible, grey_scene, model_name
from emotion_perception.recognizers.vlm import loading

KIND = "emotic-cnn"
"""The value of `kind` in `config.json`."""

BACKBONES: dict[str, Callable[[], Any]] = {"resnet18": resnet18, "resnet50": resnet50}
"""Name in torchvision to constructor, for both streams."""

_CONTEXT = (0.4690646, 0.4407227, 0.40508908), (0.2514227, 0.24312855, 0.24266963)
_BODY = (0.43832874, 0.3964344, 0.3706214), (0.24784276, 0.23621225, 0.2323653)
"""Mean and standard deviation of red, green and blue in 0..1 over the training part of EMOTIC, of
full images and of crops. Source: github.com/Tandon-A/emotic."""

_FUSED = 256
_DROPOUT = 0.5
_MIN_SIZE = 32  # px, the factor by which these networks reduce an image
_MAX_SIZE = 4096

_RARITY = 1.2
"""The c of the paper: label weights range from 1.27 (everyone has the label) to 5.5."""
_POINTS_PER_UNIT = 4.5
"""Points of the scale 1..10 of EMOTIC per unit of -1..1."""


class EmoticCnn(nn.Module):
    """A network that predicts the EMOTIC labels and VAD from a crop and the scene image.

    Training needs at least two people per batch, because of the batch norm.
    """

    def __init__(
        self, backbone: str = "resnet18", context_size: int = 224, body_size: int = 128
    ) -> None:
        """Create a network with random weights.

        Args:
            backbone: A key of `BACKBONES`.
            context_size: Side of the square that the scene image is resized to, in pixels.
            body_size: Side of the square that the crop is resized to, in pixels.

        Raises:
            ValueError: There is no such network, or a size is too small for it.
        """
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"there is no {backbone!r}: choose one of {', '.join(BACKBONES)}")
        sizes = (context_size, body_size)
        if not all(type(size) is int and _MIN_SIZE <= size <= _MAX_SIZE for size in sizes):
            raise ValueError(
                f"{context_size} and {body_size} px: {_MIN_SIZE} is the smallest size, and "
                f"{_MAX_SIZE} the largest"
            )
        self.backbone, self.context_size, self.body_size = backbone, context_size, body_size
        self.context, self.body = BACKBONES[backbone](), BACKBONES[backbone]()
        width = self.context.fc.in_features + self.body.fc.in_features
        self.context.fc, self.body.fc = nn.Identity(), nn.Identity()
        self.fuse = nn.Sequential(
            nn.Linear(width, _FUSED), nn.BatchNorm1d(_FUSED), nn.ReLU(), nn.Dropout(_DROPOUT)
        )
        self.labels = nn.Linear(_FUSED, len(EMOTIC_LABELS))
        self.vad = nn.Linear(_FUSED, len(VAD))

    def forward(self, context: Tensor, body: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, 26) and VAD (N, 3) in -1..1 of N people.

        Args:
            context: (N, 3, context_size, context_size), or (1, ...) if all people share one scene
                image, which is then processed once.
            body: (N, 3, body_size, body_size).
        """
        features = self.context(context).expand(len(body), -1)
        fused = self.fuse(torch.cat([features, self.body(body)], dim=1))
        return self.labels(fused), torch.tanh(self.vad(fused))

    def prepare(self, image: ImageArray, boxes: Sequence[Box]) -> tuple[Tensor, Tensor]:
        """Return the arguments of `forward` for N people of one frame, in training and in service.

        Returns:
            The shared context (1, 3, context_size, context_size) and the crops
            (N, 3, body_size, body_size); float32 on the CPU.

        Raises:
            ValueError: A box lies outside the image.
        """
        height, width = image.shape[:2]
        bodies = [image[box.pixels(width, height)] for box in boxes]
        return _input([image], self.context_size, *_CONTEXT), _input(bodies, self.body_size, *_BODY)

    def save(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors; create the folder if it does not exist."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "kind": KIND,
            "backbone": self.backbone,
            "context_size": self.context_size,
            "body_size": self.body_size,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path | str) -> EmoticCnn:
        """Load what `save` wrote, on the CPU, in evaluation mode.

        Raises:
            ModelError: The folder does not hold such a network.
        """
        folder = Path(folder).expanduser()
        remedy = f"set recognizer.model to a folder with a trained {KIND}"
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ModelError(f"cannot load {folder} as {KIND}: it has no {name}; {remedy}")
        try:
            config = documents.read_json_object(folder / "config.json")
            kind = config.pop("kind", None) or config.get("model_type")
            if kind != KIND:
                raise ModelError(
                    f"cannot load {folder} as {KIND}: it holds a model of type {kind}; {remedy}"
                )
            model = cls(**config)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"cannot load {folder} as {KIND}: its config.json is invalid ({error}); {remedy}"
            ) from error
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"cannot load {folder} as {KIND}: the weights are damaged or do not match its "
                f"config.json ({reason}); {remedy}"
            ) from error
        return model.eval()


def loss(logits: Tensor, vad: Tensor, labels: Tensor, vad_truth: Tensor) -> Tensor:
    """Return the training loss, a scalar whose scale does not depend on the batch size.

    Labels have the weighted Euclidean loss of Kosti et al. 2019: squared errors, weighted by
    1 / ln(1.2 + p), where p is the share of the label in the batch, so that rare labels count
    more. The errors are those of the probabilities, which are published; the original compares
    raw outputs. VAD has their smooth L1 loss, which changes from squared to absolute at one point
    of the scale of EMOTIC. Both are means over people and over labels or dimensions; the original
    has sums.

    Args:
        logits: (N, 26).
        vad: (N, 3) in -1..1.
        labels: (N, 26), 1 or true where the label is present.
        vad_truth: (N, 3) in -1..1; NaN where it is unknown, which adds nothing to the loss.
    """
    present = labels.to(logits.dtype)
    weights = 1 / torch.log(_RARITY + present.mean(dim=0))
    label_loss = (weights * (logits.sigmoid() - present) ** 2).mean()
    known = ~vad_truth.isnan()
    # The mean of an empty tensor is NaN.
    predicted, truth = vad[known], vad_truth[known].to(vad.dtype)
    vad_loss = smooth_l1_loss(
        _POINTS_PER_UNIT * predicted, _POINTS_PER_UNIT * truth, reduction="sum"
    )
    return label_loss + vad_loss / max(len(predicted), 1)


class CnnRecognizer:
    """Assess the people of a scene with an `EmoticCnn` in one pass."""

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: CnnSettings) -> None:
        """Load the network from the folder `settings.model`.

        Raises:
            ModelError: The folder does not hold an `EmoticCnn`, or the device does not exist.
        """
        folder = Path(settings.model).expanduser()
        self.name = f"{KIND}:{model_name(settings.model)}"
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._device = pick_device(settings.device)
        self.model = EmoticCnn.load(folder).to(self._device)

    def warm_up(self) -> None:
        """Assess one person in a grey image."""
        scene = grey_scene()
        self.assess(scene, scene.people)

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return one assessment per person, in order; people outside the image get a reason.

        Raises:
            RecognizerError: The device has too little memory for these people.
        """

        def assess_batch(visible: Sequence[Track]) -> Iterator[Assessment]:
            with loading.memory_errors(len(visible)):
                outputs = self._predict(scene.frame.image, [p.box for p in visible])
            for person, scores, vad in zip(visible, *outputs, strict=True):
                yield Assessment(person.person_id, scene.frame.stamp_ns, scores, Vad(*vad))

        return assess_visible(scene, people, assess_batch)

    def close(self) -> None:
        """Release the memory of the model."""
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _predict(
        self, image: ImageArray, boxes: Sequence[Box]
    ) -> tuple[FloatArray, list[list[float]]]:
        """Return probabilities (N, 26), and valence, arousal and dominance of N people."""
        context, body = self.model.prepare(image, boxes)
        logits, vad = self.model(context.to(self._device), body.to(self._device))
        return logits.double().sigmoid().cpu().numpy(), vad.tolist()


def _input(
    images: Sequence[ImageArray], size: int, mean: Sequence[float], deviation: Sequence[float]
) -> Tensor:
    """Return (N, 3, size, size) from N images of any shape, stretched to the square."""
    resized = [
        cv2.resize(
            image,
            (size, size),
            interpolation=cv2.INTER_AREA if min(image.shape[:2]) > size else cv2.INTER_LINEAR,
        )
        for image in images
    ]
    batch = np.array(resized, np.float32).reshape(-1, size, size, 3) / 255
    normal = (batch - np.array(mean, np.float32)) / np.array(deviation, np.float32)
    return torch.from_numpy(normal).permute(0, 3, 1, 2).contiguous()
