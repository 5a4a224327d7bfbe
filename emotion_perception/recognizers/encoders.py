"""Encoders that read a sentence and a picture together: they do not talk, they say what matches.

    two-stream      BridgeTower (Xu et al. 2023): a tower for words, one for pixels, bridges between
    single-stream   ViLT (Kim et al. 2021): words and patches of pixels go through one transformer

Either sees the scene with the person in a red box. As fetched, it is asked how well a sentence for
each label matches. With a `Head` that was trained on it, it reads one and the same sentence about
everybody, and the head tells labels and VAD from what it made of picture and sentence: one pass a
person instead of 26.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import transformers as typed_transformers
from PIL import Image
from torch import Tensor

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Frame, Scene, Track, Vad
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.base import assess_visible
from emotion_perception.recognizers.vlm import loading, prompts, scoring
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.recognizers.vlm.prompts import Picture

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

PAIR_BATCH_SIZE = 32
"""Pictures with a sentence each in one batch: bounds its memory, does not change its answers."""

LABEL_SENTENCES = tuple(
    f"The person in the red box feels {prompts.spoken(x)}." for x in EMOTIC_LABELS
)
"""What may match, in the order of EMOTIC's labels."""

NEUTRAL_SENTENCE = "The person in the red box feels something."
"""What is read where a head tells the labels."""


@dataclass(frozen=True, slots=True)
class Family:
    """What is to be known about one of the two architectures."""

    model_type: str
    auto: str
    """Its class in transformers."""
    example: str
    """A model that was trained for it, by its hub name."""
    square: bool
    """Its processor cuts the middle square out of a picture."""


FAMILIES = {
    "two-stream": Family(
        "bridgetower",
        "BridgeTowerForImageAndTextRetrieval",
        "BridgeTower/bridgetower-base-itm-mlm",
        square=True,
    ),
    "single-stream": Family(
        "vilt", "ViltForImageAndTextRetrieval", "dandelin/vilt-b32-finetuned-coco", square=False
    ),
}
"""By the names of the systems."""


class EncoderRecognizer:
    """EMOTIC's labels by BridgeTower or ViLT; VAD, too, where a head was trained for it.

    Without a head the scores are no calibrated probabilities. BridgeTower says for each sentence by
    itself whether it matches. ViLT only ranks sentences, so a label's score is relative: how much
    better its sentence fits than the average of the others.
    """

    calibration = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """Load the model from a folder or from what was fetched; never from the network.

        Raises:
            ModelError: the model is missing or unfit; the message says what to do.
        """
        device = pick_device(settings.device)
        folder = loading.find_folder(settings.model)
        self._settings = settings
        self._family = FAMILIES[settings.name]
        self._check_type(folder)
        auto = getattr(transformers, self._family.auto)
        self.model = loading.load_model(auto, settings.model, device, settings.dtype)
        if hasattr(self.model.config, "max_image_length"):
            # Above it ViLT looks at some patches only, drawn at random. The processor bounds their
            # number, too.
            self.model.config.max_image_length = -1
        self.processor = self._load_processor(folder)
        self.head = self._load_head(folder)
        self.name = f"{settings.name}:{Path(settings.model).name}{'+head' if self.head else ''}"
        self.labels = self.head.labels if self.head else EMOTIC_LABELS
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._sentences, self._neutral = (
            self.processor(text=list(texts), padding=True, return_tensors="pt").to(device)
            for texts in (LABEL_SENTENCES, [NEUTRAL_SENTENCE])
        )

    @property
    def width(self) -> int:
        """Of the pooled output."""
        towers = 2 if self._family.model_type == "bridgetower" else 1
        return towers * int(self.model.config.hidden_size)

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
            pictures = self.prepare(scene.frame.image, [p.box for p in visible])
            with loading.memory_errors(len(visible)), torch.inference_mode(), _one_order():
                logits, vads = self._by_head(pictures) if self.head else self._by_words(pictures)
            told = logits.sigmoid().numpy()
            for person, scores, vad in zip(visible, told, vads, strict=True):
                yield Assessment(person.person_id, scene.frame.stamp_ns, scores, vad)

        return assess_visible(scene, people, judge)

    def close(self) -> None:
        del self.model, self.processor, self.head
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def prepare(self, image: Picture, boxes: Sequence[Box]) -> list[Picture]:
        """What the encoder is shown of these people of one picture, in training and in service.

        Raises:
            ValueError: a box lies outside the picture.
        """
        marked = [prompts.mark(image, box, self._settings.scene_size) for box in boxes]
        if not self._family.square:
            return marked
        mean = self.processor.image_processor.image_mean
        return [_squared(picture, tuple(round(255 * c) for c in mean)) for picture in marked]

    def pooled(self, pictures: Sequence[Picture]) -> Tensor:
        """(N, width), float32 on the device: what a head is given about pictures of `prepare`.

        They go through in one batch. Gradients flow unless they are switched off outside.
        """
        looked = self._look(pictures)
        every = torch.arange(len(pictures))
        inputs = _pairs(looked, every, self._neutral, torch.zeros_like(every))
        pooled: Tensor = self.model.base_model(**inputs).pooler_output
        return pooled.float()

    def _by_head(self, pictures: Sequence[Picture]) -> tuple[Tensor, Sequence[Vad]]:
        """Logits (N, L), float64 on the CPU, and VAD of N people."""
        assert self.head is not None
        starts = range(0, len(pictures), PAIR_BATCH_SIZE)
        pooled = torch.cat([self.pooled(pictures[i : i + PAIR_BATCH_SIZE]) for i in starts])
        logits, vad = self.head(pooled)
        return logits.double().cpu(), [Vad(*own) for own in vad.tolist()]

    def _by_words(self, pictures: Sequence[Picture]) -> tuple[Tensor, Sequence[None]]:
        """Log-odds (N, 26), float64 on the CPU; sentences tell no VAD."""
        looked, labels = self._look(pictures), len(LABEL_SENTENCES)
        everything, found = torch.arange(len(pictures) * labels), []
        for start in range(0, len(everything), PAIR_BATCH_SIZE):
            pairs = everything[start : start + PAIR_BATCH_SIZE]
            inputs = _pairs(looked, pairs // labels, self._sentences, pairs % labels)
            found.append(self.model(**inputs).logits)
        logits = torch.cat(found).double().cpu().reshape(len(pictures), labels, -1)
        if logits.shape[-1] == 2:  # does not match, matches
            odds = logits[..., 1] - logits[..., 0]
        else:
            rows = logits[..., 0].numpy()
            odds = torch.from_numpy(np.stack([scoring.SCORING["labels"]([row]) for row in rows]))
        return odds, [None] * len(pictures)

    def _look(self, pictures: Sequence[Picture]) -> Any:
        """The arguments of the model for N pictures, a row each."""
        images = [Image.fromarray(picture) for picture in pictures]
        inputs = self.processor(images=images, return_tensors="pt")
        return inputs.to(self.model.device, self.model.dtype)

    def _check_type(self, folder: Path) -> None:
        try:
            config, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
        except OSError:
            config = {}
        found, wanted = config.get("model_type"), self._family.model_type
        if config and found != wanted:  # where there is nothing to read `load_model` says so
            raise ModelError(
                f"{self._settings.model} is a model of type {found}, and {self._settings.name} "
                f"takes {wanted}: set recognizer.model to one, such as {self._family.example}"
            )

    def _load_processor(self, folder: Path) -> Any:
        lacks = f"{self._settings.model} has no usable processor for words and pictures"
        remedy = f"set recognizer.model to a whole one, such as {self._family.example}"
        try:
            processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(f"{lacks} ({reason}): {remedy}") from error
        if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
            raise ModelError(f"{lacks}: {remedy}")
        # Without its files a tokenizer is made all the same, and knows no words.
        if len(
            {tuple(ids) for ids in processor.tokenizer(list(LABEL_SENTENCES))["input_ids"]}
        ) < len(LABEL_SENTENCES):
            raise ModelError(f"{lacks} (its tokenizer does not tell labels apart): {remedy}")
        return processor

    def _load_head(self, folder: Path) -> Head | None:
        if not any((folder / name).is_file() for name in ("head.json", "head.safetensors")):
            return None
        head = Head.load(folder).to(self.model.device)
        if head.width != self.width:
            raise ModelError(
                f"the head in {folder} takes {head.width} numbers and the encoder gives "
                f"{self.width}: put it beside the encoder that it was trained on"
            )
        return head


def _pairs(looked: Any, pictures: Tensor, read: Any, sentences: Tensor) -> dict[str, Tensor]:
    """The arguments of a model for pairs, by the numbers (P,) of their pictures and sentences."""
    return {
        **{name: rows[pictures.to(rows.device)] for name, rows in looked.items()},
        **{name: rows[sentences.to(rows.device)] for name, rows in read.items()},
    }


def _squared(picture: Picture, colour: tuple[int, ...]) -> Picture:
    """The whole picture in the middle of a square, so that cutting out the middle loses nothing."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    around = (top, side - height - top, left, side - width - left)
    return cv2.copyMakeBorder(picture, *around, cv2.BORDER_CONSTANT, value=colour)  # type: ignore[return-value]


@contextmanager
def _one_order() -> Iterator[None]:
    """In here a picture gives the same bits each time.

    ViLT shuffles the patches by the global generator; sums over them depend on it in the last bits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield
