"""The trainable systems: each is a served recognizer with the part of it that is trained.

All are trained by the same loop, `loop.py`.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import load_file
from torch import nn

from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import (
    CnnSettings,
    EncoderSettings,
    RecognizerSettings,
    TextSettings,
    VlmSettings,
)
from emotion_perception.core.values import FloatArray, ImageArray, Scene
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers import cnn
from emotion_perception.recognizers.encoders import EncoderRecognizer
from emotion_perception.recognizers.registry import RECOGNIZERS, make_recognizer
from emotion_perception.recognizers.text import llm
from emotion_perception.recognizers.vlm import adapters, families, loading, prompts
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.training.lora import add_lora, checkpoint_activations
from emotion_perception.training.losses import (
    answer_logprob_loss,
    answer_token_loss,
    answer_tokens,
    label_and_vad_loss,
    packed_loss,
    stacked,
)
from emotion_perception.training.recipe import Recipe
from emotion_perception.training.samples import Sample

ModelInputs = Callable[[str], Any]
"""A function from the text of a chat to the keyword arguments of the model."""


class Trainable(nn.Module, ABC):
    """A served system and its trained part, which are the parameters with gradients."""

    subfolder: str
    """Name of the trained part in a run folder."""
    positive_weight: torch.Tensor | None
    """(26,) weights of the labels' positives; None: all weights are 1."""

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return the trained parameters and their learning rates, as torch optimizers take them."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [{"params": trained, "lr": recipe.lr}]

    @abstractmethod
    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the loss over these samples."""

    @abstractmethod
    def scores(self, scene: Scene) -> FloatArray | None:
        """Return (people, 26) scores as they are served; None if the system generates text.

        Raises:
            ValueError: The recognizer has no assessment.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained part in the format that its recognizer loads."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """Load exactly what `save` wrote."""

    @abstractmethod
    def usage(self, folder: Path) -> RecognizerSettings:
        """Return the settings that use what `save` wrote."""

    def close(self) -> None:
        """Release memory that is not held by parameters."""
        return


def make_trainable(
    settings: RecognizerSettings, recipe: Recipe, positive_weight: FloatArray | None = None
) -> Trainable:
    """Load the system that the settings name, ready to be trained.

    Args:
        settings: How the system is served.
        recipe: How it is trained.
        positive_weight: (26,) weights of the labels' positives; None: all weights are 1.

    Raises:
        ModelError: The model is missing or unfit.
        ValueError: The system cannot be trained with this recipe; the message says which can.
    """
    objectives = RECOGNIZERS[settings.name].objectives
    if not objectives:
        raise ValueError(f"cannot train {settings.name}: it has no trainable part")
    if recipe.objective not in objectives:
        raise ValueError(
            f"cannot train {settings.name} with --objective {recipe.objective}: choose "
            f"{' or '.join(objectives)}"
        )
    torch.manual_seed(recipe.seed)  # initialises new parameters
    weight = None if positive_weight is None else torch.from_numpy(positive_weight).float()
    if isinstance(settings, VlmSettings):
        return VlmAdapter(settings, recipe, weight)
    if isinstance(settings, TextSettings):
        return TextAdapter(settings, recipe, weight)
    if recipe.checkpoint_activations:
        raise ValueError(
            f"cannot recompute activations of {settings.name}: remove --checkpoint-activations"
        )
    if isinstance(settings, CnnSettings):
        if recipe.balance:
            raise ValueError(
                "cannot balance emotic-cnn: its loss already weights rare labels; remove --balance"
            )
        return CnnTrainable(settings)
    assert isinstance(settings, EncoderSettings)
    return EncoderHead(settings, weight)


class Adapter(Trainable):
    """A LoRA adapter in the model that the recognizer serves.

    The adapter is added to the model of the recognizer, so that training differentiates the served
    logits.
    """

    subfolder = "adapter"

    def __init__(
        self,
        settings: VlmSettings | TextSettings,
        recipe: Recipe,
        positive_weight: torch.Tensor | None,
    ) -> None:
        """Load the recognizer and add the adapter.

        Raises:
            ModelError: The model is missing or unfit.
            ValueError: The model or the settings cannot be trained with this recipe.
        """
        super().__init__()
        _check_settings(settings)
        self._recipe = recipe
        self._generates = recipe.objective == "answer"
        changes: dict[str, Any] = {"scoring": "generate"} if self._generates else {}
        if isinstance(settings, VlmSettings):
            changes["compile"] = False
        self._settings: Any = replace(settings, **changes)
        self.recognizer: Any = make_recognizer(replace(self._settings, calibration="none"))
        self.served, self.tokenizer = self._parts()
        model = self.served.model
        self._record = adapters.describe(model, self._settings)
        reason, families = self._packing()
        if reason and not self._generates:
            raise ValueError(
                f"cannot train {self.recognizer.name} on scores: {reason}; choose a model of "
                f"{', '.join(families)}, or --objective answer"
            )
        self.model: Any = add_lora(model, recipe)
        if recipe.checkpoint_activations:
            checkpoint_activations(model)
        self.register_buffer("positive_weight", positive_weight, persistent=False)
        self.to(model.device)

    @abstractmethod
    def _parts(self) -> tuple[Any, Any]:
        """Return the part of the recognizer that has model and prompts, and its tokenizer."""

    @abstractmethod
    def _packing(self) -> tuple[str, Sequence[str]]:
        """Return why the model cannot be packed, empty if it can, and the families that can."""

    @abstractmethod
    def _score_loss(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the loss of the served scores."""

    @abstractmethod
    def _prompts(self, sample: Sample) -> Iterator[tuple[str, ModelInputs]]:
        """Yield per person the prompt, and the function that prepares a text starting with it."""

    def parameter_groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Return adapter and projector as groups, since the projector may have its own rate."""
        adapter: list[nn.Parameter] = []
        projector: list[nn.Parameter] = []
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                (projector if "modules_to_save" in name else adapter).append(parameter)
        groups = [
            {"params": adapter, "lr": recipe.lr},
            {"params": projector, "lr": recipe.projector_lr or recipe.lr},
        ]
        return [group for group in groups if group["params"]]

    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the loss of the objective over these samples."""
        if self._generates:
            return answer_token_loss(row for sample in samples for row in self._answers(sample))
        return self._score_loss(samples)

    def scores(self, scene: Scene) -> FloatArray | None:
        """Return (people, 26) scores as they are served; None if the system generates text."""
        return None if self._generates else _served_scores(self.recognizer, scene)

    def save(self, folder: Path) -> None:
        """Write the adapter as PEFT does, with what it must be used with and a model card."""
        self.model.save_pretrained(folder, save_embedding_layers=False)
        (folder / adapters.RECORD).write_text(json.dumps(self._record, indent=2) + "\n")
        (folder / "README.md").write_text(self._card())

    def restore(self, folder: Path) -> None:
        """Load the adapter."""
        peft.set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))

    def usage(self, folder: Path) -> RecognizerSettings:
        """Return the settings that use the adapter."""
        settings: RecognizerSettings = replace(self._settings, adapter=str(folder))
        return settings

    def close(self) -> None:
        """Close the recognizer."""
        self.recognizer.close()

    def _card(self) -> str:
        """Return the model card: base model, training, prompts and limits."""
        settings, base = self._settings, self._record["base"]
        model = getattr(settings, "text_model", "") or settings.model
        recipe = "\n".join(f"| {k} | {v} |" for k, v in asdict(self._recipe).items())
        asked = "\n".join(f"| {k} | {v} |" for k, v in self._record["asked"].items())
        return _CARD.format(
            model=model, name=settings.name, recipe=recipe, asked=asked, **base,
            objective="the labels as words" if self._generates else "the score of each label",
        )  # fmt: skip

    def _answers(self, sample: Sample) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield for each person the logits that predict the answer, and the answer's tokens.

        This is the stock forward pass, which every family supports.
        """
        model = self.served.model
        for (prompt, inputs), labels in zip(self._prompts(sample), sample.labels, strict=True):
            text, tokens = answer_tokens(self.tokenizer, prompt, labels)
            ids = torch.tensor(tokens, device=model.device)
            out = model(**inputs(text), use_cache=False, logits_to_keep=len(ids) + 1)
            yield out.logits[0, :-1], ids


class VlmAdapter(Adapter):
    """A LoRA adapter in a vision-language model."""

    def _parts(self) -> tuple[Any, Any]:
        return self.recognizer.vlm, self.recognizer.vlm.processor.tokenizer

    def _packing(self) -> tuple[str, Sequence[str]]:
        reason = families.why_not_packed(self.served.model, self._settings)
        return reason, tuple(families.FAMILIES)

    def _score_loss(self, samples: Sequence[Sample]) -> torch.Tensor:
        return packed_loss(self.served, self._settings, samples, self.positive_weight)

    def _prompts(self, sample: Sample) -> Iterator[tuple[str, ModelInputs]]:
        boxes = [p.box for p in sample.scene.people]
        prompt_images = prompts.make_prompt_images(sample.scene.frame.image, boxes, self._settings)
        prompt = self.served.chat(prompts.generation_prompt(self._settings))
        for person in range(len(boxes)):
            yield prompt, partial(self._inputs, prompt_images.of_person(person))

    def _inputs(self, images: Sequence[ImageArray], text: str) -> Any:
        return self.served.inputs([text], images)


class TextAdapter(Adapter):
    """A LoRA adapter in a text model that reads descriptions of people."""

    def _parts(self) -> tuple[Any, Any]:
        return self.recognizer, self.recognizer.tokenizer

    def _packing(self) -> tuple[str, Sequence[str]]:
        return llm.why_not_packed(self.served.model), llm.FAMILIES

    def _score_loss(self, samples: Sequence[Sample]) -> torch.Tensor:
        captions = [caption for sample in samples for caption in self._captions(sample)]
        logprobs = self.served.answer_logprobs(captions)
        return answer_logprob_loss(logprobs, samples, self.positive_weight)

    def _prompts(self, sample: Sample) -> Iterator[tuple[str, ModelInputs]]:
        question = prompts.generation_prompt(self._settings)
        for caption in self._captions(sample):
            yield self.served.chat(caption, question), self._inputs

    def _inputs(self, text: str) -> Any:
        return self.served.inputs([text])

    def _captions(self, sample: Sample) -> list[str]:
        try:
            captions: list[str] = self.recognizer.describe(sample.scene, sample.scene.people)
        except RecognizerError as error:
            raise ValueError(str(error)) from error
        return captions


_CARD = """---
library_name: peft
base_model: {model}
---
# A LoRA adapter that estimates apparent emotions

It adapts {model} ({architecture}, {layers} layers, width {width}) for the recognizer `{name}` of
emotion_perception. It was trained to predict {objective} for people in images with annotations in
the format of EMOTIC, whose licence allows non-commercial use only. The estimates are how people
appear to feel to annotators, not how they feel.

## How it must be asked

emotion_perception refuses this adapter with other settings or another base model.

| setting | value |
|---|---|
{asked}

## How it was trained

| option | value |
|---|---|
{recipe}

Data and library versions are in settings.json of the run folder, losses in log.jsonl.
"""


def _check_settings(settings: VlmSettings | TextSettings) -> None:
    """Check that an adapter can be trained with these settings.

    Raises:
        ValueError: A setting cannot be trained with.
    """
    trainable = {
        "scoring": ("yes_no", "set it to yes_no, whose scores are independent"),
        "adapter": ("", "train from the model without an adapter"),
        "quantization": ("none", "an adapter is trained over full weights"),
        "subtract_prior": (False, "remove it: it would be measured before the training"),
        "rationale": (False, "remove it: it is not trained"),
    }
    for name, (expected, remedy) in trainable.items():
        value = getattr(settings, name, expected)
        if value != expected and (name, value) != ("scoring", "generate"):
            raise ValueError(f"cannot train with recognizer.{name} = {value}: {remedy}")


class CnnTrainable(Trainable):
    """An `EmoticCnn` (Kosti et al.), from the folder in the settings or from random weights."""

    subfolder = "model"

    def __init__(self, settings: CnnSettings) -> None:
        """Load or initialise the network.

        Raises:
            ModelError: The model is missing or unfit.
        """
        super().__init__()
        self._settings = settings
        self._device = pick_device(settings.device)
        network = cnn.EmoticCnn.load(settings.model) if settings.model else cnn.EmoticCnn()
        self.network = network.to(self._device)

    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the loss of Kosti et al. over these samples.

        Raises:
            ValueError: Batch normalisation has fewer than two people to train on.
        """
        counts = [len(s.labels) for s in samples]
        if self.training and sum(counts) < 2:
            raise ValueError(
                "cannot train emotic-cnn on a batch of one person: it needs at least two people; "
                "raise --batch"
            )
        contexts, bodies = zip(*map(self._inputs, (s.scene for s in samples)), strict=True)
        repeated = [x.expand(n, -1, -1, -1) for x, n in zip(contexts, counts, strict=True)]
        logits, vad = self.network(torch.cat(repeated), torch.cat(bodies))
        # In 32 bits: the loss sums squares.
        return cnn.loss(
            logits.float(),
            vad.float(),
            stacked([s.labels for s in samples], logits.device),
            stacked([s.vad for s in samples], logits.device),
        )

    def scores(self, scene: Scene) -> FloatArray | None:
        """Return (people, 26) scores as they are served."""
        with torch.inference_mode():
            logits, _ = self.network(*self._inputs(scene))
        return logits.double().sigmoid().cpu().numpy()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """Write the network."""
        self.network.save(folder)

    def restore(self, folder: Path) -> None:
        """Load the network."""
        self.network.load_state_dict(load_file(folder / "model.safetensors"))

    def usage(self, folder: Path) -> RecognizerSettings:
        """Return the settings that use the network."""
        return replace(self._settings, model=str(folder))

    def _inputs(self, scene: Scene) -> list[torch.Tensor]:
        boxes = [p.box for p in scene.people]
        return [x.to(self._device) for x in self.network.prepare(scene.frame.image, boxes)]


class EncoderHead(Trainable):
    """A linear head on the pooled output of a frozen BridgeTower or ViLT."""

    subfolder = "model"

    def __init__(self, settings: EncoderSettings, positive_weight: torch.Tensor | None) -> None:
        """Load the encoder, and its head if it has one.

        Raises:
            ModelError: The model is missing or unfit.
            ValueError: The head of the model predicts other labels.
        """
        super().__init__()
        self.recognizer = EncoderRecognizer(settings)
        self._settings = settings
        # A plain attribute of the recognizer, so that the encoder is not among the parameters.
        self.head = self.recognizer.head or Head(self.recognizer.width)
        self.recognizer.head = self.head
        if self.head.labels != EMOTIC_LABELS:
            raise ValueError(
                f"cannot train the head in {settings.model}: it predicts other labels; remove it"
            )
        self.register_buffer("positive_weight", positive_weight, persistent=False)
        self.to(self.recognizer.model.device)

    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the loss of the head over these samples."""
        images = [
            image
            for s in samples
            for image in self.recognizer.prepare(
                s.scene.frame.image, [p.box for p in s.scene.people]
            )
        ]
        with torch.no_grad():
            pooled = self.recognizer.pooled(images)
        logits, vad = self.head(pooled)
        return label_and_vad_loss(logits.float(), vad.float(), samples, self.positive_weight)

    def scores(self, scene: Scene) -> FloatArray | None:
        """Return (people, 26) scores as they are served."""
        return _served_scores(self.recognizer, scene)

    def save(self, folder: Path) -> None:
        """Write the head, with links to the files of the encoder in the same folder."""
        self.head.save(folder)
        for file in loading.find_folder(self._settings.model).iterdir():
            if file.is_file() and not (folder / file.name).exists():
                _link(file.resolve(), folder / file.name)

    def restore(self, folder: Path) -> None:
        """Load the head."""
        self.head.load_state_dict(load_file(folder / "head.safetensors"))

    def usage(self, folder: Path) -> RecognizerSettings:
        """Return the settings that use the encoder with the head."""
        return replace(self._settings, model=str(folder))

    def close(self) -> None:
        """Close the recognizer."""
        self.recognizer.close()


def _link(file: Path, link: Path) -> None:
    """Make a hard link, or a symbolic one across disks and where hard links do not exist."""
    with suppress(OSError):
        os.link(file, link)
        return
    link.symlink_to(file)


def _served_scores(recognizer: Recognizer, scene: Scene) -> FloatArray:
    """Return (people, 26) scores of all people of the scene.

    Raises:
        ValueError: The recognizer has no assessment.
    """
    try:
        assessments = recognizer.assess(scene, scene.people)
    except RecognizerError as error:
        raise ValueError(str(error)) from error
    return np.array([assessment.scores for assessment in assessments], float)
