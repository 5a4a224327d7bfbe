"""Encoders that read an image together with a text and score how well they match.

    two-stream      BridgeTower (Xu et al. 2023): a text tower and an image tower with bridges
    single-stream   ViLT (Kim et al. 2021): one transformer for text tokens and image patches

Both see the scene image with the person in a red box. A published checkpoint scores one sentence
per label. A checkpoint with a trained `Head` reads the same neutral sentence for each person, and
the head maps the pooled output to labels and VAD: one pass per person instead of 26.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as typed_transformers
from PIL import Image
from torch import Tensor

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import EncoderSettings
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
from emotion_perception.recognizers.processors import load_processor, read_model_type
from emotion_perception.recognizers.vlm import loading, prompts, scoring
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.recognizers.whole_images import WholeImages

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

PAIR_BATCH_SIZE = 32
"""Image-text pairs per batch; it limits the memory and does not change the results."""

LABEL_SENTENCES = tuple(
    f"The person in the red box feels {prompts.label_phrase(x)}." for x in EMOTIC_LABELS
)
"""The sentence of each label, in the order of `EMOTIC_LABELS`."""

NEUTRAL_SENTENCE = "The person in the red box feels something."
"""The sentence that is read when a head predicts the labels."""


@dataclass(frozen=True, slots=True)
class Family:
    """The properties of one architecture."""

    model_type: str
    auto: str
    """Its class in transformers."""
    example: str
    """Hub name of a model with trained weights."""


FAMILIES = {
    "two-stream": Family(
        "bridgetower",
        "BridgeTowerForImageAndTextRetrieval",
        "BridgeTower/bridgetower-base-itm-mlm",
    ),
    "single-stream": Family(
        "vilt", "ViltForImageAndTextRetrieval", "dandelin/vilt-b32-finetuned-coco"
    ),
}
"""System to architecture."""


class EncoderRecognizer:
    """Scores of the EMOTIC labels from BridgeTower or ViLT; with a trained head also VAD.

    Without a head the scores are not calibrated probabilities. BridgeTower decides for each
    sentence whether it matches. ViLT only ranks sentences, so the score of a label is relative: how
    much better its sentence matches than the mean of the others.
    """

    calibration = ""

    def __init__(self, settings: EncoderSettings) -> None:
        """Load the model from a folder or from the fetched models, never from the network.

        Raises:
            ModelError: The model is missing or unsuitable.
        """
        device = pick_device(settings.device)
        folder = loading.find_folder(settings.model)
        self._settings = settings
        self._family = FAMILIES[settings.name]
        model_type = read_model_type(folder)
        if model_type and model_type != self._family.model_type:
            raise ModelError(
                f"{settings.model} is a model of type {model_type}, and {settings.name} takes "
                f"{self._family.model_type}: set recognizer.model to one, such as "
                f"{self._family.example}"
            )
        auto = getattr(transformers, self._family.auto)
        self.model = loading.load_model(auto, settings.model, device, settings.dtype)
        if hasattr(self.model.config, "max_image_length"):
            # With a limit, ViLT drops random patches of larger images. The processor limits their
            # number already.
            self.model.config.max_image_length = -1
        remedy = f"set recognizer.model to a complete model, such as {self._family.example}"
        self.processor = load_processor(settings.model, folder, LABEL_SENTENCES, remedy)
        self._whole_images = WholeImages.of(self.processor.image_processor, settings.model)
        self.head = self._load_head(folder)
        self.name = f"{settings.name}:{model_name(settings.model)}{'+head' if self.head else ''}"
        self.labels = self.head.labels if self.head else EMOTIC_LABELS
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._label_texts, self._neutral_text = (
            self.processor(text=list(texts), padding=True, return_tensors="pt").to(device)
            for texts in (LABEL_SENTENCES, [NEUTRAL_SENTENCE])
        )

    @property
    def width(self) -> int:
        """Size of the pooled output."""
        towers = 2 if self._family.model_type == "bridgetower" else 1
        return towers * int(self.model.config.hidden_size)

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
            images = self.prepare(scene.frame.image, [p.box for p in visible])
            with loading.memory_errors(len(visible)), torch.inference_mode(), _fixed_seed():
                logits, vads = self._by_head(images) if self.head else self._by_text(images)
            all_scores = logits.sigmoid().numpy()
            for person, scores, vad in zip(visible, all_scores, vads, strict=True):
                yield Assessment(person.person_id, scene.frame.stamp_ns, scores, vad)

        return assess_visible(scene, people, assess_batch)

    def close(self) -> None:
        """Release the memory of the model."""
        del self.model, self.processor, self.head
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prepare(self, image: ImageArray, boxes: Sequence[Box]) -> list[ImageArray]:
        """Return the input images of these people of one frame, in training and in service.

        Raises:
            ValueError: A box lies outside the image.
        """
        marked = [prompts.mark_person(image, box, self._settings.scene_size) for box in boxes]
        return [self._whole_images.pad(image) for image in marked]

    def pooled(self, images: Sequence[ImageArray]) -> Tensor:
        """Return (N, width) pooled outputs, float32 on the device, of images from `prepare`.

        All images form one batch. Gradients flow unless the caller switches them off.
        """
        image_inputs = self._image_inputs(images)
        every = torch.arange(len(images))
        inputs = _pairs(image_inputs, every, self._neutral_text, torch.zeros_like(every))
        pooled: Tensor = self.model.base_model(**inputs).pooler_output
        return pooled.float()

    def _by_head(self, images: Sequence[ImageArray]) -> tuple[Tensor, Sequence[Vad]]:
        """Return (N, L) logits, float64 on the CPU, and the VAD of N people."""
        assert self.head is not None
        starts = range(0, len(images), PAIR_BATCH_SIZE)
        pooled = torch.cat([self.pooled(images[i : i + PAIR_BATCH_SIZE]) for i in starts])
        logits, vad = self.head(pooled)
        return logits.double().cpu(), [Vad(*row) for row in vad.tolist()]

    def _by_text(self, images: Sequence[ImageArray]) -> tuple[Tensor, Sequence[None]]:
        """Return (N, 26) log-odds, float64 on the CPU, and no VAD."""
        image_inputs, labels = self._image_inputs(images), len(LABEL_SENTENCES)
        all_pairs, outputs = torch.arange(len(images) * labels), []
        for start in range(0, len(all_pairs), PAIR_BATCH_SIZE):
            pairs = all_pairs[start : start + PAIR_BATCH_SIZE]
            inputs = _pairs(image_inputs, pairs // labels, self._label_texts, pairs % labels)
            outputs.append(self.model(**inputs).logits)
        logits = torch.cat(outputs).double().cpu().reshape(len(images), labels, -1)
        if logits.shape[-1] == 2:  # does not match, matches
            odds = logits[..., 1] - logits[..., 0]
        else:
            rows = logits[..., 0].numpy()
            odds = torch.from_numpy(
                np.stack([scoring.LABEL_LOG_ODDS["labels"]([row]) for row in rows])
            )
        return odds, [None] * len(images)

    def _image_inputs(self, images: Sequence[ImageArray]) -> Any:
        """Return the arguments of the model for N images, one row each."""
        pil_images = [Image.fromarray(image) for image in images]
        inputs = self.processor(images=pil_images, return_tensors="pt")
        return inputs.to(self.model.device, self.model.dtype)

    def _load_head(self, folder: Path) -> Head | None:
        if not any((folder / name).is_file() for name in ("head.json", "head.safetensors")):
            return None
        head = Head.load(folder).to(self.model.device)
        if head.width != self.width:
            raise ModelError(
                f"the head in {folder} takes {head.width} numbers and the encoder outputs "
                f"{self.width}: use the encoder that the head was trained on"
            )
        return head


def _pairs(
    image_inputs: Any, image_rows: Tensor, text_inputs: Any, text_rows: Tensor
) -> dict[str, Tensor]:
    """Return the arguments of a model for P pairs, from the rows (P,) of their images and texts."""
    return {
        **{name: rows[image_rows.to(rows.device)] for name, rows in image_inputs.items()},
        **{name: rows[text_rows.to(rows.device)] for name, rows in text_inputs.items()},
    }


@contextmanager
def _fixed_seed() -> Iterator[None]:
    """Make the outputs of ViLT repeatable to the last bit.

    ViLT shuffles the image patches with the global generator, and sums depend on their order.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
