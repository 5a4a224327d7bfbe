"""A vision-language model of some two million parameters, taught the small world from nothing.

It is a SmolVLM of transformers with its own tokenizer, asked by the same prompts as any other and
served by the same recognizer. What a large model has read, this one lacks, so that three things
help it to learn within minutes on a CPU:

- its tokenizer holds the fixed phrases of the prompts as single tokens;
- its vision tower first learns to tell faces, postures and places apart, with heads that are thrown
  away (most of the gain);
- further yes/no questions, about face, posture and place, are asked beside those for feelings. They
  are leaves of the same tree, notice nothing and are not noticed, and are left out afterwards.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as typed_transformers
from PIL import Image
from tokenizers import AddedToken
from torch.nn import functional

from emotion_perception import toy_world
from emotion_perception.core.labels import EMOTIC_LABELS, VAD, vad_from_emotic
from emotion_perception.core.settings import RecognizerSettings, Settings
from emotion_perception.evaluation.ablations import ablate
from emotion_perception.io import atomic
from emotion_perception.recognizers.vlm import attention, prompts
from emotion_perception.recognizers.vlm.recognizer import VlmRecognizer
from emotion_perception.testing import checkpoints
from emotion_perception.training.folders import put
from emotion_perception.training.trainables import Sample, Weights, scores_loss

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

SIDE = 96  # pixels of the pictures that it sees
HELPERS = (*toy_world.FACES, *toy_world.POSTURES, *toy_world.CONTEXTS)
"""What is asked beside the labels: a yes/no question each."""

SIZES = ((192, 192), (256, 192), (256, 144), (144, 192))
"""Width and height of pictures to learn from: a camera's are not square, and people stand further
apart in them."""

LESS = ("person", "scene", "text")
"""Parts of the input that a share of the people is shown alone, see `inputs`."""


def settings_of(folder: Path | str, **changes: Any) -> RecognizerSettings:
    """How the small model is asked."""
    given = {"model": str(folder), "device": "cpu", **changes}
    flat = {**toy_world.ASKED, **{f"recognizer.{name}": value for name, value in given.items()}}
    return Settings.from_dict(flat).recognizer


def save_untrained(folder: Path | str, seed: int) -> Path:
    """A model with random weights, saved as one from the hub would be."""
    folder = Path(folder)
    settings = settings_of(folder)
    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tokenizer = checkpoints.train_tokenizer(special, _phrases(settings))
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p in _phrases(settings)])
    config = transformers.SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 16,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    sizes = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(**sizes),
        image_seq_len=9,
        chat_template=checkpoints.SMOLVLM_CHAT,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def samples(seed: int, count: int, less: float = 0.17) -> list[Sample]:
    """Training pictures number 0 to `count` of a world, some of them with less than everything.

    Args:
        less: the share of pictures of which each person is shown by a part alone.
    """
    return [sample(seed, number, less) for number in range(count)]


def sample(seed: int, number: int, less: float) -> Sample:
    """One training picture; only combinations that are not held out."""
    random = np.random.default_rng((seed, number, 1))
    size = SIZES[int(random.integers(len(SIZES)))]
    picture = toy_world.scene(seed, number, "seen", size=size)
    scene = picture.scene()
    people = list(picture.people)
    if random.random() < less:
        chosen = int(random.integers(len(people)))
        part = str(random.choice(LESS))
        scene = ablate(scene, scene.people[chosen], part, None, picture.masks[chosen])
        people = [people[chosen]]
    vad = np.array([vad_from_emotic(p.vad.tolist()) for p in people])
    facts = [[h in (p.face, p.posture, p.context) for h in HELPERS] for p in people]
    return Sample(scene, toy_world.truth(people), vad, np.array(facts))


def train(
    folder: Path | str,
    seed: int,
    looks: int = 1300,
    steps: int = 1900,
    batch: int = 16,
    say: Callable[[str], None] = print,
) -> Path:
    """Train a small model on the part "seen" of the small world, and save it.

    Args:
        looks: steps of the vision tower alone.
        steps: steps of the whole model.
        batch: pictures a step; a picture has two people on average.

    Raises:
        ValueError: the folder holds something else, or nothing would be learnt.
        FloatingPointError: the loss is no number.
        OSError: something cannot be written; what was in the folder before stays.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "recipe.json").is_file():
        raise ValueError(f"{folder} holds something else than a small model: choose another place")
    for name, count in (("looks", looks), ("steps", steps)):
        if count < 1:
            raise ValueError(f"--{name} {count}: choose at least 1")
    atomic.make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        untrained = save_untrained(place, seed)
        recognizer = _trained(settings_of(untrained), seed, looks, steps, batch, say)
        facts = {"seed": seed, "looks": looks, "steps": steps, "batch": batch}

        def write(new: Path) -> None:
            for file in untrained.iterdir():
                shutil.copyfile(file, new / file.name)
            recognizer.model.save_pretrained(new)
            (new / "recipe.json").write_text(json.dumps(facts, indent=2) + "\n")

        put(folder, write)
    return folder


def _trained(
    settings: RecognizerSettings,
    seed: int,
    looks: int,
    steps: int,
    batch: int,
    say: Callable[[str], None],
) -> VlmRecognizer:
    recognizer = VlmRecognizer(settings)
    recognizer.ask_for(
        [
            *prompts.questions(settings),
            *(
                prompts.Question(prompts.ONE_FOR_ALL, prompts.YES_NO, begun=f"{h}:")
                for h in HELPERS
            ),
        ]
    )
    torch.manual_seed(seed)
    _learn_to_see(recognizer, seed, looks, batch, say)
    weights = Weights()
    _descend(
        list(recognizer.model.parameters()),
        lambda number: scores_loss(
            recognizer, settings, _drawn(seed, 1, number, batch, 0.17), weights
        ),
        steps,
        "whole",
        say,
    )
    recognizer.model.eval()
    return recognizer


def _drawn(seed: int, phase: int, number: int, batch: int, less: float) -> list[Sample]:
    """The pictures of one step."""
    first = number * batch
    own = toy_world.SEED_OF_TRAINING + 10 * seed + phase
    return [sample(own, i, less) for i in range(first, first + batch)]


def _learn_to_see(
    recognizer: VlmRecognizer, seed: int, steps: int, batch: int, say: Callable[[str], None]
) -> None:
    """Faces and postures from crops, places from scenes, by heads on the mean of the patches."""
    tower = recognizer.model.model.vision_model
    tiles = attention.Tiles(recognizer.model, 32, SIDE)
    sizes = [len(toy_world.FACES), len(toy_world.POSTURES), len(toy_world.CONTEXTS)]
    heads = torch.nn.ModuleList([torch.nn.Linear(128, size) for size in sizes])

    def loss(number: int) -> torch.Tensor:
        drawn = _drawn(seed, 0, number, batch, 0.0)
        facts = torch.from_numpy(np.concatenate([s.helpers for s in drawn]).astype(np.float32))
        scenes = [prompts.resize(s.scene.frame.image, SIDE) for s in drawn]
        crops = [
            prompts.cut_out(s.scene.frame.image, p.box, SIDE) for s in drawn for p in s.scene.people
        ]
        images = [Image.fromarray(picture) for picture in (*scenes, *crops)]
        seen = tower(tiles.pixels(recognizer.processor.image_processor, images, SIDE))
        pooled = seen.last_hidden_state.mean(1)
        counts = torch.tensor([len(s.scene.people) for s in drawn])
        where = heads[-1](pooled[: len(scenes)].repeat_interleave(counts, 0))
        who = pooled[len(scenes) :]
        told = [heads[0](who), heads[1](who), where]
        truth = torch.split(facts, sizes, 1)
        return sum(
            (functional.cross_entropy(x, y.argmax(1)) for x, y in zip(told, truth, strict=True)),
            start=torch.zeros(()),
        )

    _descend([*tower.parameters(), *heads.parameters()], loss, steps, "vision", say)


def _descend(
    parameters: list[Any],
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    name: str,
    say: Callable[[str], None],
) -> None:
    """AdamW with a short warm-up and a linear way down."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / 80, max(0.02, 1 - k / steps))
    )
    recent: list[float] = []
    for number in range(steps):
        loss = loss_of(number)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {number} of {name}")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        rate.step()
        recent = [*recent[-49:], value]
        if number % 50 == 49:
            say(f"{name} {number + 1}/{steps}: loss {np.mean(recent):.4f}")


def _phrases(settings: RecognizerSettings) -> list[str]:
    """The fixed runs of the prompts."""
    (message,) = prompts.messages(settings, prompts.ONE_FOR_ALL)
    runs = [line["text"] for line in message["content"] if line["type"] == "text"]
    return [*runs, *(f" {word}:" for word in (*map(prompts.spoken, EMOTIC_LABELS), *VAD, *HELPERS))]
