"""Zero-shot assessment with CLIP or SigLIP, which score how well texts match images.

No training on emotions is involved. Each label is written into a few sentences. The logit of a
label is the mean similarity of its sentences to two views of a person: the crop, and the full
frame, which all people of the frame share.

`ImageTextModel` is the model without labels; `text/narracap.py` uses it with other sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as typed_transformers
from torch import Tensor
from torch.nn.functional import normalize

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.logits import probability
from emotion_perception.core.recognizer_settings import ClipSettings, NarracapSettings
from emotion_perception.core.values import (
    Assessment,
    Box,
    FloatArray,
    Frame,
    ImageArray,
    Scene,
    Track,
)
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.base import assess_visible, grey_scene, model_name
from emotion_perception.recognizers.processors import load_processor, read_model_type
from emotion_perception.recognizers.vlm import loading, prompts, scoring
from emotion_perception.recognizers.whole_images import WholeImages

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

_TEMPLATES_FILE = Path(__file__).parents[1] / "data" / "clip" / "templates.txt"
TEMPLATES = tuple(_TEMPLATES_FILE.read_text(encoding="utf-8").splitlines())
"""The sentences about a label, in lower case as in the training data of the models."""

FAMILIES = ("clip", "siglip", "siglip2")
"""Supported values of `model_type`; the first SigLIP 2 models have the type siglip."""

TEXT_BATCH_SIZE = 64
"""Texts per batch; it limits the memory and does not change the results."""

_EXAMPLES = "openai/clip-vit-large-patch14 or google/siglip2-base-patch16-224"


class ImageTextModel:
    """A CLIP or SigLIP that embeds texts and images in one space."""

    def __init__(self, settings: ClipSettings | NarracapSettings) -> None:
        """Load `settings.model` from a folder or from the fetched models, never from the network.

        Raises:
            ModelError: The model is missing or unsuitable.
        """
        device = pick_device(settings.device)
        folder = loading.find_folder(settings.model)
        model_type = read_model_type(folder)
        if model_type and model_type not in FAMILIES:
            raise ModelError(
                f"{settings.model} is a model of type {model_type}, which does not match texts "
                f"with images: set recognizer.model to a CLIP or SigLIP, such as {_EXAMPLES}"
            )
        self.name = model_name(settings.model)
        self._model = loading.load_model(
            transformers.AutoModel, settings.model, device, settings.dtype
        )
        remedy = f"set recognizer.model to a complete model, such as {_EXAMPLES}"
        self._processor = load_processor(settings.model, folder, EMOTIC_LABELS, remedy)
        self._whole_images = WholeImages.of(self._processor.image_processor, settings.model)

    @property
    def absolute(self) -> bool:
        """Whether a logit is the log-odds of a match, as in SigLIP.

        The logits of CLIP only rank several texts: zero has no meaning.
        """
        return hasattr(self._model, "logit_bias")

    @torch.inference_mode()
    def embed_texts(self, sentences: Sequence[str]) -> Tensor:
        """Return (T, D) unit vectors, float32 on the device; long texts are truncated."""
        starts = range(0, len(sentences), TEXT_BATCH_SIZE)
        return torch.cat([self._embed_batch(sentences[i : i + TEXT_BATCH_SIZE]) for i in starts])

    @torch.inference_mode()
    def embed_images(self, images: Sequence[ImageArray]) -> Tensor:
        """Return (N, D) unit vectors, float32 on the device, of uncropped images in one batch."""
        # Otherwise the processor of CLIP cuts off head and feet of a standing person.
        pil_images, model = self._whole_images.pil_images(images), self._model
        inputs = self._processor(images=pil_images, return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        return normalize(model.get_image_features(**inputs).pooler_output.float(), dim=-1)

    @torch.inference_mode()
    def logits(self, images: Tensor, texts: Tensor) -> FloatArray:
        """Return (N, T) float64 logits: cosines with the learned scale and bias."""
        cosines = (images @ texts.T).double()
        logits = cosines * self._model.logit_scale.double().exp()
        if self.absolute:
            logits = logits + self._model.logit_bias.double()
        return logits.cpu().numpy()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Release the memory of the model, which cannot be used afterwards."""
        del self._model, self._processor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _embed_batch(self, sentences: Sequence[str]) -> Tensor:
        longest = self._model.config.text_config.max_position_embeddings
        inputs = self._processor.tokenizer(
            list(sentences),
            # SigLIP was trained on padded texts and attends to the padding, too.
            padding="max_length" if self.absolute else True,
            truncation=True,
            max_length=longest,
            return_tensors="pt",
        ).to(self._model.device)
        if self.absolute:
            inputs = {"input_ids": inputs["input_ids"]}
        features = self._model.get_text_features(**inputs).pooler_output
        return normalize(features.float(), dim=-1)


class ClipRecognizer:
    """Zero-shot scores of the EMOTIC labels from CLIP or SigLIP, without VAD.

    The logit of a label is the mean over the two views. The score of SigLIP is the sigmoid of the
    logit. The score of CLIP, which only ranks, is relative: how much better a label matches than
    the mean of the others. Neither is a calibrated probability; those of SigLIP are mostly near 0.
    """

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: ClipSettings) -> None:
        """Load the model and embed the sentences of all labels.

        Raises:
            ModelError: The model is missing or unsuitable.
        """
        self._model = ImageTextModel(settings)
        self.name = f"clip:{self._model.name}"
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._label_embeddings = _embed_labels(self._model)

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
                logits = self._logits(scene.frame, [p.box for p in visible])
            for person, scores in zip(visible, probability(logits), strict=True):
                yield Assessment(person.person_id, scene.frame.stamp_ns, scores)

        return assess_visible(scene, people, assess_batch)

    def close(self) -> None:
        """Release the memory of the model."""
        self._model.close()
        del self._label_embeddings

    def _logits(self, frame: Frame, boxes: Sequence[Box]) -> FloatArray:
        """Return (people, labels) log-odds."""
        embeddings = self._model.embed_images([frame.image, *crops(frame, boxes)])
        frame_logits, *crop_logits = self._model.logits(embeddings, self._label_embeddings)
        rows = [(frame_logits + row) / 2 for row in crop_logits]
        if not self._model.absolute:
            rows = [scoring.LABEL_LOG_ODDS["labels"]([row]) for row in rows]
        return np.stack(rows)


def crops(frame: Frame, boxes: Sequence[Box]) -> list[ImageArray]:
    """Return the crop of each person at the resolution of the camera.

    Raises:
        ValueError: A box lies outside the image.
    """
    return [frame.image[box.pixels(frame.width, frame.height)] for box in boxes]


def _embed_labels(model: ImageTextModel) -> Tensor:
    """Return (labels, D) unit vectors: the normalised mean over the sentences of each label."""
    names = [prompts.label_phrase(label) for label in EMOTIC_LABELS]
    sentences = [model.embed_texts([t.format(name) for name in names]) for t in TEMPLATES]
    return normalize(torch.stack(sentences).mean(dim=0), dim=-1)
