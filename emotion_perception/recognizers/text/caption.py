"""A model that writes what it sees: the first half of a captioning system.

A model that chats is shown the scene with the person in a red box and is asked about them. One that
only puts pictures into words (BLIP, Florence-2) would not know who is meant, so it writes twice:
about the whole picture, and about the person cut out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as typed_transformers
from PIL import Image

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Scene, Track
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.vlm import loading, prompts
from emotion_perception.recognizers.vlm.prompts import Picture

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

TASK_PROMPTS = {"blip": "", "florence2": "<MORE_DETAILED_CAPTION>"}
"""The families (`model_type`) that only caption, and what starts them."""

REQUEST = (
    "Describe in one or two sentences the person in the red box: who they seem to be, what they "
    "are doing, their face and posture, and what happens around them."
)
"""What a model that chats is asked."""

EMPTY_CAPTION = "nothing can be told from the picture"
"""What stands where the model wrote nothing."""

MAX_CAPTION_TOKENS = 60
"""Tokens, at most."""


class Captioner:
    """What is seen of people, as a captioning or vision-language model of transformers words it."""

    def __init__(self, settings: RecognizerSettings) -> None:
        """Load the model from a folder or from what was fetched; never from the network.

        Raises:
            ModelError: the model is missing or unfit; the message says what to do.
        """
        self.name = f"caption:{Path(settings.model).name}"
        self._scene_size = settings.scene_size
        self._task = TASK_PROMPTS.get(_family(loading.find_folder(settings.model)))
        if self._task is None:
            # The adapter belongs to the model that reads what this one writes.
            self._processor, self._model = loading.load(replace(settings, adapter=""))
            self._chat = self._request(settings.model)
        else:
            self._processor, self._model = _load_captioner(settings)

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """One caption a person, in their order.

        Args:
            people: inside the picture.
        """
        frame = scene.frame
        if not people:
            return []
        if self._task is None:
            marked = (prompts.mark(frame.image, p.box, self._scene_size) for p in people)
            return [self._answer(picture) or EMPTY_CAPTION for picture in marked]
        alone = [frame.image[p.box.pixels(frame.width, frame.height)] for p in people]
        around, *each = (
            caption.rstrip(". ") or EMPTY_CAPTION for caption in self._write([frame.image, *alone])
        )
        return [f"The scene: {around}. This person: {caption}." for caption in each]

    def close(self) -> None:
        del self._model, self._processor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _write(self, pictures: Sequence[Picture]) -> list[str]:
        """A caption of each picture, all of them in one batch; any may be empty."""
        images = [Image.fromarray(picture) for picture in pictures]
        task = {"text": [self._task] * len(images)} if self._task else {}
        inputs = self._processor(images=images, return_tensors="pt", **task)
        written = self._model.generate(
            **inputs.to(self._model.device, self._model.dtype),
            max_new_tokens=MAX_CAPTION_TOKENS,
            do_sample=False,
            num_beams=1,
        )
        captions = self._processor.batch_decode(written, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in captions]

    @torch.inference_mode()
    def _answer(self, picture: Picture) -> str:
        """What a model that chats writes about the person in the red box; may be empty."""
        tokenizer = self._processor.tokenizer
        bos = tokenizer.bos_token
        inputs = self._processor(
            text=[self._chat],
            images=[[Image.fromarray(picture)]],
            add_special_tokens=not (bos and self._chat.startswith(bos)),
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        return loading.write(self._model, tokenizer, inputs, MAX_CAPTION_TOKENS)

    def _request(self, name: str) -> str:
        """The chat up to where the caption begins."""
        processor = self._processor
        content = [{"type": "image"}, {"type": "text", "text": f"\n{REQUEST}"}]
        # Models that think aloud would not come to the caption.
        thinks = "enable_thinking" in str(processor.chat_template)
        text: str = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=False,
            **({"enable_thinking": False} if thinks else {}),
        )
        if (shown := text.count(processor.image_token)) != 1:
            raise ModelError(
                f"the chat template of {name} shows {shown} of 1 pictures: choose another model"
            )
        return text


def _family(folder: Path) -> str:
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    except OSError:
        config = {}  # whoever loads the model says what is wrong
    return str(config.get("model_type", ""))


def _load_captioner(settings: RecognizerSettings) -> tuple[Any, Any]:
    name, device = settings.model, pick_device(settings.device)
    auto = transformers.AutoModelForImageTextToText
    model = loading.load_model(auto, name, device, settings.dtype)
    lacks = f"{name} has no usable processor"
    remedy = (
        "set recognizer.model to a whole model that writes captions, such as "
        "Salesforce/blip-image-captioning-large or florence-community/Florence-2-base"
    )
    try:
        processor = transformers.AutoProcessor.from_pretrained(
            loading.find_folder(name), local_files_only=True
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"{lacks} ({reason}): {remedy}") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise ModelError(f"{lacks}: {remedy}")
    return processor, model
