"""What is trained, and what makes it better: the very logits that serving reads.

A `Trainable` is a served system with the part of it that learns. All are trained by the same loop,
`finetune.py`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from emotion_perception.core.errors import RecognizerError
from emotion_perception.core.interfaces import Recognizer
from emotion_perception.core.labels import EMOTIC_LABELS, VAD
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import FloatArray, Scene
from emotion_perception.perception.devices import pick_device
from emotion_perception.recognizers import cnn
from emotion_perception.recognizers.encoders import EncoderRecognizer
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.text import llm
from emotion_perception.recognizers.text.llm import LlmRecognizer
from emotion_perception.recognizers.vlm import attention, loading, prompts
from emotion_perception.recognizers.vlm import recognizer as vlm
from emotion_perception.recognizers.vlm.head import Head
from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
from emotion_perception.recognizers.vlm.scoring import continued
from emotion_perception.training.samples import Recipe
from emotion_perception.training.samples import Sample as Sample


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part of the loss counts."""

    vad: float = 0.5
    helpers: float = 0.5


def scores_loss(
    recognizer: VlmRecognizer,
    settings: RecognizerSettings,
    samples: Sequence[Sample],
    weights: Weights,
    balance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Of all people of these pictures, in one packed pass, see `likings_loss`."""
    rounds = [
        prompts.show(s.scene.frame.image, [p.box for p in s.scene.people], settings)
        for s in samples
    ]
    return likings_loss(recognizer.logits(rounds), samples, weights, balance)


def likings_loss(
    likings: Sequence[torch.Tensor],
    samples: Sequence[Sample],
    weights: Weights,
    balance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Of how much a model likes the answers (people, answers) to each question.

    Binary cross-entropy on the log-odds of yes against no for each label, squared error of the
    expected digit for each number, and cross-entropy on the helping questions.

    Args:
        balance: (26,) weights of the labels' positives; None: all count alike.
    """
    count = len(EMOTIC_LABELS)
    told = torch.stack([expectation(x) for x in likings[count : count + len(VAD)]], 1)
    loss = _labels_and_vad(log_odds(likings[:count]), told, samples, weights, balance)
    helping = likings[count + len(VAD) :]
    if helping:
        facts = [s.helpers for s in samples if s.helpers is not None]
        loss = loss + weights.helpers * functional.binary_cross_entropy_with_logits(
            log_odds(helping), _tensor(facts, loss.device)
        )
    return loss


def _labels_and_vad(
    logits: torch.Tensor,
    told: torch.Tensor,
    samples: Sequence[Sample],
    weights: Weights,
    balance: torch.Tensor | None,
) -> torch.Tensor:
    labels = _tensor([s.labels for s in samples], logits.device)
    loss = functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=balance)
    vad = _tensor([s.vad for s in samples], logits.device)
    known = ~vad.isnan()
    if known.any():
        loss = loss + weights.vad * functional.mse_loss(told[known], vad[known])
    return loss


def answer_text(labels: npt.NDArray[np.bool_]) -> str:
    """What the model should say of somebody (26,), in the order of the paper's prompt."""
    there = dict(zip(EMOTIC_LABELS, labels, strict=True))
    return ", ".join(label for label in prompts.PAPER_ORDER if there[label])


def answer_loss(rows: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Cross-entropy of the tokens of the answers, given the right ones before; all count alike.

    This is the objective of LLaVA (Liu et al. 2023), of which Etesam et al. 2024 made theirs.

    Args:
        rows: for each person the logits (T, vocabulary) where the answer stands, and its (T,)
            tokens.
    """
    found = [(functional.cross_entropy(x.float(), y, reduction="sum"), len(y)) for x, y in rows]
    return torch.stack([loss for loss, _ in found]).sum() / sum(tokens for _, tokens in found)


def log_odds(likings: Sequence[torch.Tensor]) -> torch.Tensor:
    """(people, questions) of yes against no, from (people, 2) for each question."""
    return torch.stack([x[:, 0] - x[:, 1] for x in likings], 1)


def expectation(likings: torch.Tensor) -> torch.Tensor:
    """(people,) in -1..1, from (people, 9): as `scoring.expectation`, with gradients."""
    scale = torch.linspace(-1, 1, likings.shape[1], device=likings.device)
    return likings.softmax(1) @ scale


def _tensor(rows: Sequence[npt.NDArray[np.generic]], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(rows).astype(np.float32)).to(device)


class Trainable(nn.Module, ABC):
    """A served system and the part of it that learns: its parameters with gradients."""

    folder: str
    """What the trained part is called in the folder of a run."""

    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """The parameters with their learning rates, as an optimizer of torch takes them."""
        learning = [p for p in self.parameters() if p.requires_grad]
        return [{"params": learning, "lr": recipe.lr}]

    @abstractmethod
    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        """The loss."""

    @abstractmethod
    def scores(self, scene: Scene) -> FloatArray | None:
        """(people, 26) as they are served; None where the system writes words."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained part as a recognizer finds it."""

    @abstractmethod
    def restore(self, folder: Path) -> None:
        """The inverse of `save`, to the bit."""

    @abstractmethod
    def usage(self, folder: Path) -> str:
        """How to use what `save` wrote."""

    def close(self) -> None:
        """Give back memory that is not held by parameters."""
        return


def make_trainable(
    settings: RecognizerSettings, recipe: Recipe, balance: FloatArray | None = None
) -> Trainable:
    """What the settings name, ready to learn.

    Args:
        balance: (26,) weights of the labels' positives; None: all count alike.

    Raises:
        ModelError: the model is missing or unfit.
        ValueError: it cannot be trained like that; the message says what can.
    """
    torch.manual_seed(recipe.seed)  # new parameters are drawn
    weights = None if balance is None else torch.from_numpy(balance).float()
    adapts = settings.name in ("vlm", "llm", "narracap", "caption")
    if not adapts and (recipe.objective != "scores" or recipe.checkpoint_activations):
        raise ValueError(f"{settings.name} gives no answer in words, and keeps all activations")
    if settings.name == "emotic-cnn":
        if recipe.balance:
            raise ValueError(
                "the loss of emotic-cnn weights rare labels by itself: leave --balance"
            )
        return Kosti(settings)
    if settings.name in ("two-stream", "single-stream"):
        return Headed(settings, weights)
    if adapts:
        return Adapted(settings, recipe, weights)
    raise ValueError(f"{settings.name} has nothing to train")


class Adapted(Trainable):
    """A vision-language or text model with LoRA (Hu et al., ICLR 2022) in its linear layers.

    The adapter is put into the model that the recognizer asks, so that training differentiates the
    logits of serving. It is kept in 32 bits, whatever the model is.
    """

    folder = "adapter"

    def __init__(
        self, settings: RecognizerSettings, recipe: Recipe, balance: torch.Tensor | None
    ) -> None:
        super().__init__()
        _check_asked(settings)
        writes = recipe.objective == "answer"
        self._settings = replace(
            settings, scoring="generate" if writes else settings.scoring, compile=False
        )
        self._recipe = recipe
        served: Any = make_recognizer(replace(self._settings, calibration="none"))
        self.recognizer: Any = served
        model, reads = served.model, settings.name != "vlm"
        if not writes:
            why = llm.why_not_packed(model) if reads else vlm.why_not_packed(model, settings)
            families = llm.FAMILIES if reads else vlm.FAMILIES
            if why:
                raise ValueError(
                    f"{self.recognizer.name} cannot be trained on scores, since {why}: choose a "
                    f"model of {', '.join(families)}, or --objective answer"
                )
        self.model: Any = _with_lora(model, recipe)
        if recipe.checkpoint_activations:
            _checkpoint_activations(model)
        self.register_buffer("balance", balance, persistent=False)
        self.to(model.device)

    def groups(self, recipe: Recipe) -> list[dict[str, Any]]:
        """The projector by itself, since it may have a rate of its own."""
        groups = []
        for of_projector in (False, True):
            learning = [
                p
                for name, p in self.named_parameters()
                if p.requires_grad and ("modules_to_save" in name) == of_projector
            ]
            lr = recipe.projector_lr if of_projector and recipe.projector_lr else recipe.lr
            groups += [{"params": learning, "lr": lr}] if learning else []
        return groups

    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        if self._recipe.objective == "answer":
            ask = self._read if isinstance(self.recognizer, LlmRecognizer) else self._seen
            return answer_loss(row for sample in samples for row in ask(sample))
        balance: Any = self.balance
        if isinstance(self.recognizer, LlmRecognizer):
            captions = [c for s in samples for c in self._describe(s)]
            likings = self.recognizer.logits(captions)
            return likings_loss(likings, samples, Weights(), balance)
        return scores_loss(self.recognizer, self._settings, samples, Weights(), balance)

    def scores(self, scene: Scene) -> FloatArray | None:
        return None if self._recipe.objective == "answer" else _assessed(self.recognizer, scene)

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder, save_embedding_layers=False)

    def restore(self, folder: Path) -> None:
        import peft

        peft.set_peft_model_state_dict(self.model, load_file(folder / "adapter_model.safetensors"))

    def usage(self, folder: Path) -> str:
        return f"-p recognizer.adapter:={folder}, or evaluate ... --adapter {folder}"

    def close(self) -> None:
        self.recognizer.close()

    def _describe(self, sample: Sample) -> list[str]:
        try:
            return self.recognizer.describe(  # type: ignore[no-any-return]
                sample.scene, sample.scene.people
            )
        except RecognizerError as error:
            raise ValueError(str(error)) from error

    def _seen(self, sample: Sample) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each person the logits of the answer and its tokens, by the stock forward pass."""
        recognizer, boxes = self.recognizer, [p.box for p in sample.scene.people]
        shown = prompts.show(sample.scene.frame.image, boxes, self._settings)
        question = recognizer._chat(prompts.request(self._settings))
        for seen, labels in zip(shown.seen, sample.labels, strict=True):
            text, ids = self._answered(recognizer.processor.tokenizer, question, labels)
            inputs = recognizer._prepare([text], [shown.pictures[i] for i in seen])
            yield self._logits(inputs, ids), ids

    def _read(self, sample: Sample) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        recognizer, request = self.recognizer, prompts.request(self._settings)
        for caption, labels in zip(self._describe(sample), sample.labels, strict=True):
            question = recognizer._chat(caption, request)
            text, ids = self._answered(recognizer.tokenizer, question, labels)
            batch = {"input_ids": [recognizer._encode(text)]}
            inputs = recognizer.tokenizer.pad(batch, return_tensors="pt").to(ids.device)
            yield self._logits(inputs, ids), ids

    def _answered(
        self, tokenizer: Any, question: str, labels: npt.NDArray[np.bool_]
    ) -> tuple[str, torch.Tensor]:
        """The prompt with the whole answer, and the answer's tokens."""
        text = continued(question, answer_text(labels)) + tokenizer.eos_token
        before, after = (
            tokenizer(x, add_special_tokens=False)["input_ids"] for x in (question, text)
        )
        same = 0  # a word may swallow the space that the prompt ends with
        while same < len(before) and before[same] == after[same]:
            same += 1
        return text, torch.tensor(after[same:], device=self.recognizer.model.device)

    def _logits(self, inputs: Any, ids: torch.Tensor) -> torch.Tensor:
        out = self.recognizer.model(**inputs, use_cache=False, logits_to_keep=len(ids) + 1)
        logits: torch.Tensor = out.logits[0, :-1]
        return logits


def _check_asked(settings: RecognizerSettings) -> None:
    """
    Raises:
        ValueError: training cannot follow how the settings ask.
    """
    remedies = {
        "scoring": ("yes_no", "set it to yes_no, of which the scores are independent"),
        "adapter": ("", "train from the model without one"),
        "quantization": ("none", "an adapter is trained over full weights"),
        "subtract_prior": (False, "take it away: it would be measured before the training"),
        "rationale": (False, "take it away: it is not trained"),
    }
    for name, (wanted, remedy) in remedies.items():
        value = getattr(settings, name)
        if value != wanted and (name, value) != ("scoring", "generate"):
            raise ValueError(f"recognizer.{name} = {value} cannot be trained: {remedy}")


_PROJECTORS = ("connector", "multi_modal_projector", "merger", "deepstack_merger_list")
"""What leads from the vision tower to the language model, by its names in the families."""


def _with_lora(model: Any, recipe: Recipe) -> Any:
    """A PEFT model around this one, whose layers are replaced where they are."""
    import peft

    modules = dict(model.named_modules())
    reads = attention.language_model(model)
    below = next(name for name, module in modules.items() if module is reads)
    if recipe.train_vision:
        below = next(name for name, module in modules.items() if module is model.model)
    head = model.get_output_embeddings()
    projectors = _projectors(modules) if recipe.train_projector else []
    if recipe.train_projector and not projectors:
        raise ValueError(f"a {model.config.model_type} has no projector: leave --train-projector")
    linear = {
        name.removeprefix(f"{below}.")
        for name, module in modules.items()
        if isinstance(module, nn.Linear)
        and module is not head
        and name.startswith(f"{below}.")
        and not any(f"{name}.".startswith(f"{projector}.") for projector in projectors)
    }
    kinds = {name.rpartition(".")[2] for name in linear}
    wanted = kinds if recipe.target == "all-linear" else set(recipe.target.split(","))
    if wrong := sorted(wanted - kinds):
        raise ValueError(f"--target {wrong[0]}: the model has {', '.join(sorted(kinds))}")
    chosen = sorted(f"{below}.{name}" for name in linear if name.rpartition(".")[2] in wanted)
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=chosen,
        modules_to_save=projectors or None,
    )
    adapted = peft.get_peft_model(model, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def _projectors(modules: dict[str, Any]) -> list[str]:
    """Of a list its members, which is what PEFT takes."""
    found = [n for n in modules if n.rpartition(".")[2] in _PROJECTORS]
    lists = [n for n in found if isinstance(modules[n], nn.ModuleList)]
    members = [f"{n}.{i}" for n in lists for i in range(len(modules[n]))]
    return [*(n for n in found if n not in lists), *members]


def _checkpoint_activations(model: Any) -> None:
    """Compute activations again in the backward pass; attention then is what it was in the first.

    Raises:
        ValueError: the model does not support it.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        branches = attention._branches.get(None)
        if branches is None:
            return nullcontext(), nullcontext()
        return nullcontext(), attention.attention_by_branch(model, branches)

    how = {"use_reentrant": False, "context_fn": contexts}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.23
        model.activation_checkpointing_enable(how)
    else:
        model.gradient_checkpointing_enable(how)


class Kosti(Trainable):
    """An `EmoticCnn`, from the folder that the settings name or from nothing."""

    folder = "model"

    def __init__(self, settings: RecognizerSettings) -> None:
        super().__init__()
        device = pick_device(settings.device)
        self.network = (
            cnn.EmoticCnn.load(settings.model) if settings.model else cnn.EmoticCnn()
        ).to(device)
        self._device = device

    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        counts = [len(s.labels) for s in samples]
        if self.training and sum(counts) < 2:
            raise ValueError("emotic-cnn needs at least two people at a time: raise --batch")
        around, bodies = zip(*map(self._prepared, (s.scene for s in samples)), strict=True)
        repeated = [x.expand(n, -1, -1, -1) for x, n in zip(around, counts, strict=True)]
        logits, vad = self.network(torch.cat(repeated), torch.cat(bodies))
        labels, truth = ([s.labels for s in samples], [s.vad for s in samples])
        # In 32 bits: the loss sums squares.
        return cnn.loss(
            logits.float(),
            vad.float(),
            _tensor(labels, logits.device),
            _tensor(truth, logits.device),
        )

    def scores(self, scene: Scene) -> FloatArray | None:
        with torch.inference_mode():
            logits, _ = self.network(*self._prepared(scene))
        return logits.double().sigmoid().cpu().numpy()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        self.network.save(folder)

    def restore(self, folder: Path) -> None:
        self.network.load_state_dict(load_file(folder / "model.safetensors"))

    def usage(self, folder: Path) -> str:
        return f"-p recognizer.name:=emotic-cnn -p recognizer.model:={folder}"

    def _prepared(self, scene: Scene) -> list[torch.Tensor]:
        boxes = [p.box for p in scene.people]
        return [x.to(self._device) for x in self.network.prepare(scene.frame.image, boxes)]


class Headed(Trainable):
    """A head on the pooled output of a frozen BridgeTower or ViLT."""

    folder = "model"

    def __init__(self, settings: RecognizerSettings, balance: torch.Tensor | None) -> None:
        super().__init__()
        self.recognizer = EncoderRecognizer(settings)
        self._settings = settings
        # A plain attribute of the recognizer, so that the encoder is not among the parameters.
        self.head = self.recognizer.head or Head(self.recognizer.width)
        self.recognizer.head = self.head
        if self.head.labels != EMOTIC_LABELS:
            raise ValueError(f"the head in {settings.model} knows other labels: take it away")
        self.register_buffer("balance", balance, persistent=False)
        self.to(self.recognizer.model.device)

    def forward(self, samples: Sequence[Sample]) -> torch.Tensor:
        pictures = [
            picture
            for s in samples
            for picture in self.recognizer.prepare(
                s.scene.frame.image, [p.box for p in s.scene.people]
            )
        ]
        with torch.no_grad():
            pooled = self.recognizer.pooled(pictures)
        logits, vad = self.head(pooled)
        balance: Any = self.balance
        return _labels_and_vad(logits.float(), vad.float(), samples, Weights(), balance)

    def scores(self, scene: Scene) -> FloatArray | None:
        return _assessed(self.recognizer, scene)

    def save(self, folder: Path) -> None:
        """The head, in a folder with the encoder's files: names for the same ones on disk."""
        self.head.save(folder)
        for file in loading.find_folder(self._settings.model).iterdir():
            if file.is_file() and not (folder / file.name).exists():
                _name_again(file.resolve(), folder / file.name)

    def restore(self, folder: Path) -> None:
        self.head.load_state_dict(load_file(folder / "head.safetensors"))

    def usage(self, folder: Path) -> str:
        return f"-p recognizer.name:={self._settings.name} -p recognizer.model:={folder}"

    def close(self) -> None:
        self.recognizer.close()


def _name_again(file: Path, name: Path) -> None:
    with suppress(OSError):  # another disk, or one that has no hard links
        os.link(file, name)
        return
    name.symlink_to(file)


def _assessed(recognizer: Recognizer, scene: Scene) -> FloatArray:
    """
    Raises:
        ValueError: the recognizer has no answer.
    """
    try:
        answers = recognizer.assess(scene, scene.people)
    except RecognizerError as error:
        raise ValueError(str(error)) from error
    return np.array([answer.scores for answer in answers], float)
