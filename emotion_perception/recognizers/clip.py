"""A model that says how well words match pictures, taught by captions: CLIP or SigLIP.

Zero-shot: nothing was trained on emotions. Every label is put into a few sentences, and a person
shows a label as far as its sentences match two views of them: cut out of the picture, and the whole
picture, which is the same for everybody in it.

`ImageTextModel` is that model without labels; `narracap.py` gives it other sentences.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers as typed_transformers
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.logits import probability
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Frame, Scene, Track
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.base import assess_visible
from emotion_perception.recognizers.vlm import loading, prompts, scoring
from emotion_perception.recognizers.vlm.prompts import Picture

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

TEMPLATES = (
    "a photo of a person who feels {}",
    "a photo of a person showing {}",
    "a person whose face and posture express {}",
    "a scene in which somebody feels {}",
)
"""The sentences about a label, in lower case as the models read them."""

FAMILIES = ("clip", "siglip", "siglip2")
"""What a matcher can be (`model_type`); the first SigLIP 2 models call themselves siglip."""

TEXT_BATCH_SIZE = 64
"""Sentences in one batch: bounds its memory, does not change its answers."""

_EXAMPLES = "openai/clip-vit-large-patch14 or google/siglip2-base-patch16-224"


class ImageTextModel:
    """A CLIP or SigLIP, loaded: sentences and pictures as points of one space."""

    def __init__(self, settings: RecognizerSettings) -> None:
        """Load `settings.model` from a folder or from what was fetched; never from the network.

        Raises:
            ModelError: the model is missing or unfit; the message says what to do.
        """
        device = pick_device(settings.device)
        folder = loading.find_folder(settings.model)
        _check_family(settings.model, folder)
        self.name = Path(settings.model).name
        self._model = loading.load_model(
            transformers.AutoModel, settings.model, device, settings.dtype
        )
        self._processor = _load_processor(settings.model, folder)

    @property
    def absolute(self) -> bool:
        """Whether a logit says by itself that a sentence matches, as SigLIP was taught.

        CLIP was only taught which sentence of several matches best: its logits have no zero.
        """
        return hasattr(self._model, "logit_bias")

    @torch.inference_mode()
    def embed_texts(self, sentences: Sequence[str]) -> Tensor:
        """(T, D) of length 1, float32 on the device; what is too long is cut off."""
        starts = range(0, len(sentences), TEXT_BATCH_SIZE)
        return torch.cat([self._read(sentences[i : i + TEXT_BATCH_SIZE]) for i in starts])

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Picture]) -> Tensor:
        """(P, D) of length 1, float32 on the device; each picture is seen whole, in one batch."""
        model, prepares = self._model, self._processor.image_processor
        if getattr(prepares, "do_center_crop", False):
            # Of a standing person CLIP's processor would cut off head and feet.
            mean = [round(255 * c) for c in prepares.image_mean]
            images = [_squared(image, mean) for image in images]
        # As PIL images, since of very small arrays it cannot be told which axis the colours are.
        pil_images = [Image.fromarray(image) for image in images]
        inputs = self._processor(images=pil_images, return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        return normalize(model.get_image_features(**inputs).pooler_output.float(), dim=-1)

    @torch.inference_mode()
    def logits(self, pictures: Tensor, texts: Tensor) -> FloatArray:
        """(P, T), float64: the cosine of each pair, by the scale and bias that the model learnt."""
        cosines = (pictures @ texts.T).double()
        logits = cosines * self._model.logit_scale.double().exp()
        if self.absolute:
            logits = logits + self._model.logit_bias.double()
        return logits.cpu().numpy()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Give back the memory of the model. The matcher cannot be used afterwards."""
        del self._model, self._processor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _read(self, sentences: Sequence[str]) -> Tensor:
        longest = self._model.config.text_config.max_position_embeddings
        inputs = self._processor.tokenizer(
            list(sentences),
            # SigLIP was taught sentences that are all filled up, and reads the filling, too.
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
    """EMOTIC's labels by CLIP or SigLIP, zero-shot; no VAD.

    The logit of a label is the mean of those of the two views. From SigLIP its sigmoid is the
    score. From CLIP, which only ranks, a score is relative: how much better a label matches than
    the average of the others. Neither is a calibrated probability; SigLIP's are mostly near 0.
    """

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """
        Raises:
            ModelError: as `ImageTextModel`.
        """
        self._model = ImageTextModel(settings)
        self.name = f"clip:{self._model.name}"
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._sentences = _label_points(self._model)

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
                logits = self._logits(scene.frame, [p.box for p in visible])
            for person, scores in zip(visible, probability(logits), strict=True):
                yield Assessment(person.person_id, scene.frame.stamp_ns, scores)

        return assess_visible(scene, people, judge)

    def close(self) -> None:
        self._model.close()
        del self._sentences

    def _logits(self, frame: Frame, boxes: Sequence[Box]) -> FloatArray:
        """(people, labels) log-odds."""
        points = self._model.embed_images([frame.image, *crops(frame, boxes)])
        whole, *alone = self._model.logits(points, self._sentences)
        rows = [(whole + own) / 2 for own in alone]
        if not self._model.absolute:
            rows = [scoring.SCORING["labels"]([row]) for row in rows]
        return np.stack(rows)


def crops(frame: Frame, boxes: Sequence[Box]) -> list[Picture]:
    """Each person alone, in the camera's pixels.

    Raises:
        ValueError: a box lies outside the picture.
    """
    return [frame.image[box.pixels(frame.width, frame.height)] for box in boxes]


def _label_points(matcher: ImageTextModel) -> Tensor:
    """(labels, D): of each label the middle of its sentences, brought to length 1."""
    names = [prompts.spoken(label) for label in EMOTIC_LABELS]
    sentences = [matcher.embed_texts([t.format(name) for name in names]) for t in TEMPLATES]
    return normalize(torch.stack(sentences).mean(dim=0), dim=-1)


def _squared(picture: Picture, colour: Sequence[int]) -> Picture:
    """The whole picture in the middle of a square."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    around = (top, side - height - top, left, side - width - left)
    return cv2.copyMakeBorder(picture, *around, cv2.BORDER_CONSTANT, value=colour)  # type: ignore[return-value]


def _check_family(name: str, folder: Path) -> None:
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    except OSError:
        config = {}
    found = config.get("model_type")
    if config and found not in FAMILIES:  # where there is nothing to read `load_model` says so
        raise ModelError(
            f"{name} is a model of type {found}, which does not match words with pictures: set "
            f"recognizer.model to a CLIP or SigLIP, such as {_EXAMPLES}"
        )


def _load_processor(name: str, folder: Path) -> Any:
    lacks = f"{name} has no usable processor for words and pictures"
    remedy = f"set recognizer.model to a whole one, such as {_EXAMPLES}"
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{lacks} ({reason}): {remedy}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(f"{lacks}: {remedy}")
    # Without its files a tokenizer is made all the same, and knows no words.
    read = {tuple(ids) for ids in processor.tokenizer(list(EMOTIC_LABELS))["input_ids"]}
    if len(read) < len(EMOTIC_LABELS):
        raise ModelError(f"{lacks} (its tokenizer does not tell words apart): {remedy}")
    return processor
