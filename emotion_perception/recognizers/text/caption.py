"""Caption people with a captioning or vision-language model: the first half of system `caption`.

A chat model sees the scene image with the person in a red box and is asked to describe the person.
A pure captioning model (BLIP, Florence-2) cannot be asked, so it captions twice: the full frame,
and the crop of the person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers as typed_transformers

from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import CaptionSettings
from emotion_perception.core.values import ImageArray, Scene, Track
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers.base import model_name
from emotion_perception.recognizers.processors import load_processor, read_model_type
from emotion_perception.recognizers.vlm import chat, loading, prompts
from emotion_perception.recognizers.whole_images import WholeImages

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

TASK_PROMPTS = {"blip": "", "florence2": "<MORE_DETAILED_CAPTION>"}
"""`model_type` of pure captioning models to the prompt that starts a caption."""

REQUEST = (
    "Describe in one or two sentences the person in the red box: who they seem to be, what they "
    "are doing, their face and posture, and what happens around them."
)
"""The request to a chat model."""

EMPTY_CAPTION = "nothing can be told from the picture"
"""Replaces an empty caption."""

MAX_CAPTION_TOKENS = 60
"""Maximum length of a caption."""


class Captioner:
    """Captions of people from a captioning or vision-language model of transformers."""

    def __init__(self, settings: CaptionSettings) -> None:
        """Load the model from a folder or from the fetched models, never from the network.

        Raises:
            ModelError: The model is missing or unsuitable.
        """
        self.name = f"caption:{model_name(settings.model)}"
        self._scene_size = settings.scene_size
        self._task = TASK_PROMPTS.get(read_model_type(loading.find_folder(settings.model)))
        if self._task is None:
            # The adapter is for the text model that reads the captions.
            self._processor, self._model = loading.load_vlm(replace(settings, adapter=""))
            self._chat = self._request(settings.model)
        else:
            self._processor, self._model = _load_captioner(settings)
        self._whole_images = WholeImages.of(self._processor.image_processor, settings.model)

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """Return one caption per person, in order.

        Args:
            scene: The scene of the people.
            people: People inside the image.
        """
        frame = scene.frame
        if not people:
            return []
        if self._task is None:
            marked = (prompts.mark_person(frame.image, p.box, self._scene_size) for p in people)
            return [self._answer(image) or EMPTY_CAPTION for image in marked]
        crops = [frame.image[p.box.pixels(frame.width, frame.height)] for p in people]
        scene_caption, *person_captions = (
            caption.rstrip(". ") or EMPTY_CAPTION
            for caption in self._caption([frame.image, *crops])
        )
        return [
            f"The scene: {scene_caption}. This person: {caption}." for caption in person_captions
        ]

    def close(self) -> None:
        """Release the memory of the model."""
        del self._model, self._processor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _caption(self, images: Sequence[ImageArray]) -> list[str]:
        """Return a caption of each image, in one batch; captions may be empty."""
        pil_images = self._whole_images.pil_images(images)
        task = {"text": [self._task] * len(images)} if self._task else {}
        inputs = self._processor(images=pil_images, return_tensors="pt", **task)
        tokens = self._model.generate(
            **inputs.to(self._model.device, self._model.dtype),
            max_new_tokens=MAX_CAPTION_TOKENS,
            do_sample=False,
            num_beams=1,
        )
        captions = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [" ".join(caption.split()) for caption in captions]

    @torch.inference_mode()
    def _answer(self, image: ImageArray) -> str:
        """Return what a chat model writes about the person in the red box; it may be empty."""
        tokenizer = self._processor.tokenizer
        bos = tokenizer.bos_token
        inputs = self._processor(
            text=[self._chat],
            images=[self._whole_images.pil_images([image])],
            add_special_tokens=not (bos and self._chat.startswith(bos)),
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        return loading.generate_text(self._model, tokenizer, inputs, MAX_CAPTION_TOKENS)

    def _request(self, name: str) -> str:
        """Return the chat up to the place where the caption begins."""
        processor = self._processor
        content = [{"type": "image"}, {"type": "text", "text": f"\n{REQUEST}"}]
        text = chat.render(processor, [{"role": "user", "content": content}], name)
        if marker := chat.open_thoughts(text):
            raise ModelError(
                f"cannot write captions with {name}: its chat template always thinks first "
                f"({marker}), which would use up the tokens of the caption; choose another model"
            )
        if (count := text.count(processor.image_token)) != 1:
            raise ModelError(
                f"the chat template of {name} has places for {count} images instead of 1: choose "
                "another model"
            )
        return text


def _load_captioner(settings: CaptionSettings) -> tuple[Any, Any]:
    name, device = settings.model, pick_device(settings.device)
    auto = transformers.AutoModelForImageTextToText
    model = loading.load_model(auto, name, device, settings.dtype)
    remedy = (
        "set recognizer.model to a complete model that writes captions, such as "
        "Salesforce/blip-image-captioning-large or florence-community/Florence-2-base"
    )
    return load_processor(name, loading.find_folder(name), [REQUEST], remedy), model
