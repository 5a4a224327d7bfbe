"""The traditional baseline: one convolutional network sees the body, another the whole picture.

Architecture, sizes and loss: Kosti et al., "Context Based Emotion Recognition using EMOTIC
Dataset", TPAMI 2019. Its streams began with weights learnt on ImageNet and Places; here they begin
at random, because nothing is downloaded. Such weights fit in: `context` and `body` of `EmoticCnn`
are torchvision's networks without their last layer.
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

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS, VAD
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Frame, Scene, Track, Vad
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.base import assess_visible
from emotion_perception.recognizers.vlm import loading
from emotion_perception.recognizers.vlm.prompts import Picture

KIND = "emotic-cnn"
"""What `config.json` says the folder holds."""

BACKBONES: dict[str, Callable[[], Any]] = {"resnet18": resnet18, "resnet50": resnet50}
"""The networks that either stream can be, by their names in torchvision."""

_CONTEXT = (0.4690646, 0.4407227, 0.40508908), (0.2514227, 0.24312855, 0.24266963)
_BODY = (0.43832874, 0.3964344, 0.3706214), (0.24784276, 0.23621225, 0.2323653)
"""Mean and standard deviation of red, green, blue in 0..1 over EMOTIC's training part, of whole
pictures and of bodies. Source: github.com/Tandon-A/emotic."""

_FUSED = 256
_DROPOUT = 0.5
_SMALLEST = 32  # px, by which these networks shrink a picture

_RARITY = 1.2
"""The c of the paper: from 1.27 for a label that all have, weights go up to 5.5."""
_POINTS = 4.5
"""Of EMOTIC's scale 1..10, in one unit of -1..1."""


class EmoticCnn(nn.Module):
    """EMOTIC's labels and VAD from a person's body and the picture around them.

    In training it needs at least two people at a time, because of the batch norm.
    """

    def __init__(
        self, backbone: str = "resnet18", context_size: int = 224, body_size: int = 128
    ) -> None:
        """
        Args:
            backbone: one of `BACKBONES`.
            context_size: side of the square that the whole picture is resized to, in pixels.
            body_size: the same for the body.

        Raises:
            ValueError: there is no such network, or a size is too small for it.
        """
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"there is no {backbone!r}: choose one of {', '.join(BACKBONES)}")
        if min(context_size, body_size) < _SMALLEST:
            raise ValueError(f"{context_size} and {body_size} px: {_SMALLEST} is the least")
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
        """Logits (N, 26) and VAD (N, 3) in -1..1 of N people.

        Args:
            context: (N, 3, context_size, context_size), or (1, ...) if all are in one picture,
                which is then looked at once.
            body: (N, 3, body_size, body_size).
        """
        around = self.context(context).expand(len(body), -1)
        fused = self.fuse(torch.cat([around, self.body(body)], dim=1))
        return self.labels(fused), torch.tanh(self.vad(fused))

    def prepare(self, image: Picture, boxes: Sequence[Box]) -> tuple[Tensor, Tensor]:
        """What `forward` takes about these N people of one picture, in training and in service.

        Returns:
            The context (1, 3, context_size, context_size) that they share, and their bodies
            (N, 3, body_size, body_size); float32 on the CPU.

        Raises:
            ValueError: a box lies outside the picture.
        """
        height, width = image.shape[:2]
        bodies = [image[box.pixels(width, height)] for box in boxes]
        return _input([image], self.context_size, *_CONTEXT), _input(bodies, self.body_size, *_BODY)

    def save(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors; the folder is made if it is not there."""
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
        """The inverse of `save`, on the CPU and ready to answer.

        Raises:
            ModelError: the folder holds no such network; the message says what is wrong.
        """
        folder = Path(folder).expanduser()
        remedy = f"set recognizer.model to a folder with a trained {KIND}"
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise ModelError(f"{folder} holds no {KIND} (no {name}): {remedy}")
        try:
            config = json.loads((folder / "config.json").read_text())
            kind = config.pop("kind", None) or config.get("model_type")
            if kind != KIND:
                raise ModelError(f"{folder} holds a model of type {kind}, no {KIND}: {remedy}")
            model = cls(**config)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"the config.json of {folder} is not one of an {KIND} ({error}): {remedy}"
            ) from error
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the weights of {folder} are damaged or do not fit its config.json ({reason}): "
                f"{remedy}"
            ) from error
        return model.eval()


def loss(logits: Tensor, vad: Tensor, labels: Tensor, vad_truth: Tensor) -> Tensor:
    """What training makes small: a number, the same for any size of the batch.

    For the labels it is the weighted Euclidean loss of Kosti et al. 2019: squared errors, those of
    a label weighted by 1 / ln(1.2 + p), where p is its share in the batch, so that rare labels
    count more. The errors are those of the probabilities, which are what is published; the
    original compares its raw outputs. For VAD it is their smooth L1, which turns from squared to
    absolute at one point of EMOTIC's scale. Both are means, over people and over labels or
    dimensions, where the original has sums.

    Args:
        logits: (N, 26).
        vad: (N, 3) in -1..1.
        labels: (N, 26), 1 or true where the label is present.
        vad_truth: (N, 3) in -1..1; NaN where it is not known, which then does not count.
    """
    present = labels.to(logits.dtype)
    weights = 1 / torch.log(_RARITY + present.mean(dim=0))
    of_labels = (weights * (logits.sigmoid() - present) ** 2).mean()
    known = ~vad_truth.isnan()
    # A mean over nothing would be NaN.
    found, truth = vad[known], vad_truth[known].to(vad.dtype)
    of_vad = smooth_l1_loss(_POINTS * found, _POINTS * truth, reduction="sum")
    return of_labels + of_vad / max(len(found), 1)


class CnnRecognizer:
    """An `EmoticCnn` at work: one pass for everybody in a scene."""

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """
        Raises:
            ModelError: `recognizer.model` is no folder of an `EmoticCnn`, or the device does not
                exist here.
        """
        folder = Path(settings.model).expanduser()
        self.name = f"{KIND}:{folder.name}"
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._device = pick_device(settings.device)
        self.model = EmoticCnn.load(folder).to(self._device)

    def warm_up(self) -> None:
        """Assess somebody in a grey picture."""
        grey = np.full((480, 640, 3), 128, np.uint8)
        person = Track("p00000", Box(160, 80, 480, 480), 1.0)
        self.assess(Scene(Frame(grey, 0, ""), (person,)), (person,))

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """One answer for each person, in their order; without scores where the box is no use.

        Raises:
            RecognizerError: the people do not fit into the memory of the device.
        """

        def judge(visible: Sequence[Track]) -> Iterator[Assessment]:
            with loading.memory_errors(len(visible)):
                told = self._judge(scene.frame.image, [p.box for p in visible])
            for person, scores, vad in zip(visible, *told, strict=True):
                yield Assessment(person.person_id, scene.frame.stamp_ns, scores, Vad(*vad))

        return assess_visible(scene, people, judge)

    def close(self) -> None:
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _judge(self, image: Picture, boxes: Sequence[Box]) -> tuple[FloatArray, list[list[float]]]:
        """Probabilities (N, 26) and N times valence, arousal and dominance."""
        context, body = self.model.prepare(image, boxes)
        logits, vad = self.model(context.to(self._device), body.to(self._device))
        return logits.double().sigmoid().cpu().numpy(), vad.tolist()


def _input(
    pictures: Sequence[Picture], size: int, mean: Sequence[float], deviation: Sequence[float]
) -> Tensor:
    """(N, 3, size, size) of N pictures of any shape, which are stretched to the square."""
    resized = [
        cv2.resize(
            picture,
            (size, size),
            interpolation=cv2.INTER_AREA if min(picture.shape[:2]) > size else cv2.INTER_LINEAR,
        )
        for picture in pictures
    ]
    batch = np.array(resized, np.float32).reshape(-1, size, size, 3) / 255
    normal = (batch - np.array(mean, np.float32)) / np.array(deviation, np.float32)
    return torch.from_numpy(normal).permute(0, 3, 1, 2).contiguous()
