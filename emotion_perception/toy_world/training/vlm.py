"""A vision-language model of about two million parameters, trained on the small world from scratch.

It is a SmolVLM of transformers with its own tokenizer. It gets the same prompts as any other model
and is served by the same recognizer. Since it lacks the knowledge of a large model, three things
help it to learn within minutes on a CPU:

- its tokenizer holds the fixed phrases of the prompts as single tokens;
- its vision tower is first trained to classify faces, postures and places, with heads that are then
  discarded (most of the gain);
- auxiliary yes/no questions, about face, posture and place, are asked beside those about emotions.
  They are leaves of the same tree, so that they neither affect the other answers nor are affected
  by them, and they are left out afterwards.
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
from emotion_perception.core.recognizer_settings import VlmSettings
from emotion_perception.core.settings import vlm_settings
from emotion_perception.evaluation.ablations import ablate
from emotion_perception.io import atomic
from emotion_perception.recognizers.vlm import attention, prompts
from emotion_perception.recognizers.vlm.model import VlmModel
from emotion_perception.testing.checkpoints.vlm import SMOLVLM_CHAT, train_tokenizer
from emotion_perception.training.losses import packed_loss
from emotion_perception.training.samples import ABLATED_INPUTS, Sample

transformers: Any = typed_transformers  # its annotations do not fit what it takes and returns

SIDE = 96
"""Longer side, in pixels, of the images that the model sees."""

AUXILIARY = (*toy_world.FACES, *toy_world.POSTURES, *toy_world.CONTEXTS)
"""The properties of a person that the auxiliary questions are about."""

SIZES = ((192, 192), (256, 192), (256, 144), (144, 192))
"""Width and height of the training images: wide ones, too, in which people stand further apart."""

ABLATION_RATE = 0.17
"""Share of the training images of which only one person is shown, with part of the input hidden."""


def recognizer_settings(folder: Path | str, **changes: Any) -> VlmSettings:
    """Return the settings that serve the small model in a folder."""
    values = {"model": str(folder), "device": "cpu", **changes}
    flat = {
        **toy_world.PROMPT_SETTINGS,
        **{f"recognizer.{name}": value for name, value in values.items()},
    }
    return vlm_settings({name.removeprefix("recognizer."): v for name, v in flat.items()})


def save_untrained(folder: Path | str, seed: int) -> Path:
    """Save a model with random weights in the format of a model from the hub."""
    folder = Path(folder)
    settings = recognizer_settings(folder)
    special = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tokenizer = train_tokenizer(special, _phrases(settings))
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
        chat_template=SMOLVLM_CHAT,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def draw_sample(seed: int, number: int, ablation_rate: float = 0.0) -> Sample:
    """Draw one training image of a world, without the combinations that are held out.

    Args:
        seed: Seed of the world.
        number: Number of the image in that world.
        ablation_rate: Probability that only one person is shown, with part of the input hidden.
    """
    random = np.random.default_rng((seed, number, 1))
    size = SIZES[int(random.integers(len(SIZES)))]
    drawn = toy_world.draw_image(seed, number, "seen", size=size)
    scene = drawn.scene()
    people = list(drawn.people)
    if random.random() < ablation_rate:
        chosen = int(random.integers(len(people)))
        ablation = str(random.choice(ABLATED_INPUTS))
        scene = ablate(scene, scene.people[chosen], ablation, None, drawn.masks[chosen])
        people = [people[chosen]]
    vad = np.array([vad_from_emotic(p.vad.tolist()) for p in people])
    auxiliary = [[name in (p.face, p.posture, p.context) for name in AUXILIARY] for p in people]
    return Sample(scene, toy_world.ground_truth(people), vad, np.array(auxiliary))


def train(
    folder: Path | str,
    seed: int,
    vision_steps: int = 1300,
    steps: int = 1900,
    batch: int = 16,
    report: Callable[[str], None] = print,
) -> Path:
    """Train a small model on the part "seen" of the small world, and save it.

    Args:
        folder: The folder of the model.
        seed: Seed of the training images and of the initial weights.
        vision_steps: Steps of the vision tower alone.
        steps: Steps of the whole model.
        batch: Images per step; an image has two people on average.
        report: Called with each line for the user.

    Raises:
        ValueError: The folder holds other files, or a number of steps is not positive.
        FloatingPointError: The loss is not finite.
        OSError: A file cannot be written; the previous model in the folder is kept.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "recipe.json").is_file():
        raise ValueError(f"{folder} holds other files than a small model: choose another folder")
    for option, count in (("vision-steps", vision_steps), ("steps", steps)):
        if count < 1:
            raise ValueError(f"--{option} {count}: choose at least 1")
    atomic.make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        untrained = save_untrained(temporary, seed)
        recognizer = _trained(
            recognizer_settings(untrained), seed, vision_steps, steps, batch, report
        )
        recipe = {"seed": seed, "looks": vision_steps, "steps": steps, "batch": batch}

        def write(new: Path) -> None:
            for file in untrained.iterdir():
                shutil.copyfile(file, new / file.name)
            recognizer.model.save_pretrained(new)
            (new / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")

        atomic.write_folder(folder, write)
    return folder


def _trained(
    settings: VlmSettings,
    seed: int,
    vision_steps: int,
    steps: int,
    batch: int,
    report: Callable[[str], None],
) -> VlmModel:
    """Load an untrained model, train its vision tower and then all of it."""
    model = VlmModel(settings)
    auxiliary = [
        prompts.Question(prompts.SHARED_QUESTION, prompts.YES_NO, answer_prefix=f"{name}:")
        for name in AUXILIARY
    ]
    model.set_questions([*prompts.questions(settings), *auxiliary])
    torch.manual_seed(seed)
    _train_vision_tower(model, seed, vision_steps, batch, report)

    def loss(step: int) -> torch.Tensor:
        samples = _draw_batch(seed, 1, step, batch, ABLATION_RATE)
        return packed_loss(model, settings, samples)

    _optimize(list(model.model.parameters()), loss, steps, "whole", report)
    model.model.eval()
    return model


def _draw_batch(seed: int, phase: int, step: int, batch: int, ablation_rate: float) -> list[Sample]:
    """Draw the samples of one step; each seed and phase has a world of its own."""
    world = toy_world.FIRST_TRAINING_SEED + 10 * seed + phase
    numbers = range(step * batch, (step + 1) * batch)
    return [draw_sample(world, number, ablation_rate) for number in numbers]


def _train_vision_tower(
    model: VlmModel, seed: int, steps: int, batch: int, report: Callable[[str], None]
) -> None:
    """Classify faces and postures of crops and places of scenes from the mean patch feature."""
    tower = model.model.model.vision_model
    tiles = attention.Tiles(model.model, 32, SIDE)
    sizes = [len(toy_world.FACES), len(toy_world.POSTURES), len(toy_world.CONTEXTS)]
    face_head, posture_head, place_head = heads = torch.nn.ModuleList(
        [torch.nn.Linear(128, size) for size in sizes]
    )

    def loss(step: int) -> torch.Tensor:
        samples = _draw_batch(seed, 0, step, batch, 0.0)
        truth = torch.from_numpy(np.concatenate([s.auxiliary for s in samples]).astype(np.float32))
        scenes = [prompts.resize(s.scene.frame.image, SIDE) for s in samples]
        crops = [
            prompts.crop_person(s.scene.frame.image, p.box, SIDE)
            for s in samples
            for p in s.scene.people
        ]
        images = [Image.fromarray(image) for image in (*scenes, *crops)]
        features = tower(tiles.pixels(model.processor.image_processor, images, SIDE))
        pooled = features.last_hidden_state.mean(1)
        counts = torch.tensor([len(s.scene.people) for s in samples])
        place = place_head(pooled[: len(scenes)].repeat_interleave(counts, 0))
        people = pooled[len(scenes) :]
        logits = [face_head(people), posture_head(people), place]
        return sum(
            (
                functional.cross_entropy(x, y.argmax(1))
                for x, y in zip(logits, torch.split(truth, sizes, 1), strict=True)
            ),
            start=torch.zeros(()),
        )

    _optimize([*tower.parameters(), *heads.parameters()], loss, steps, "vision", report)


def _optimize(
    parameters: list[Any],
    loss_of_step: Callable[[int], torch.Tensor],
    steps: int,
    name: str,
    report: Callable[[str], None],
) -> None:
    """Minimise a loss by AdamW with a short warm-up and a linear decay.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / 80, max(0.02, 1 - k / steps))
    )
    recent: list[float] = []
    for step in range(steps):
        loss = loss_of_step(step)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step} of {name}")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent = [*recent[-49:], value]
        if step % 50 == 49:
            report(f"{name} {step + 1}/{steps}: loss {np.mean(recent):.4f}")


def _phrases(settings: VlmSettings) -> list[str]:
    """Return the fixed phrases of the prompts."""
    (message,) = prompts.messages(settings, prompts.SHARED_QUESTION)
    runs = [line["text"] for line in message["content"] if line["type"] == "text"]
    names = (*map(prompts.label_phrase, EMOTIC_LABELS), *VAD, *AUXILIARY)
    return [*runs, *(f" {name}:" for name in names)]
