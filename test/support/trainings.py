"""Settings, recipes and readers for tests that train small checkpoints."""

from __future__ import annotations

import json

import numpy as np

from emotion_perception.core.logits import logit
from emotion_perception.core.recognizer_settings import recognizer_settings
from emotion_perception.evaluation.datasets import emotic
from emotion_perception.recognizers.cnn import EmoticCnn
from emotion_perception.training import loop
from emotion_perception.training.recipe import Recipe
from emotion_perception.training.samples import SampleReader


def vlm_settings(folder, **changes):
    """Settings of a small vision-language model that sees small images."""
    values = {
        "device": "cpu",
        "model": str(folder),
        "definitions": "none",
        "person_view": "mark",
        "answer_format": "continuation",
        "scene_size": 64,
        "crop_size": 64,
    }
    return recognizer_settings(**{**values, **changes})


def llm_settings(folder, captions):
    """Settings of a small text model that reads captions from a file."""
    return recognizer_settings(
        name="llm",
        text_model=str(folder),
        captions=str(captions),
        device="cpu",
        definitions="none",
        answer_format="continuation",
    )


def cnn_settings(folder, seed=0):
    """Save a small network with random weights, and return the settings that serve it."""
    import torch

    torch.manual_seed(seed)
    EmoticCnn(context_size=64, body_size=32).save(folder)
    return recognizer_settings(name="emotic-cnn", model=str(folder), device="cpu")


def recipe(**changes):
    """A recipe of three steps."""
    values = {"steps": 3, "every": 1, "batch": 2, "lr": 5e-3, "dropout": 0.0, "rank": 4}
    return Recipe.from_options({**values, "schedule": "linear", "warmup": 0.0, **changes})


def train(settings, recipe, root, folder, report=lambda line: None, **callbacks):
    """Train on the splits that the recipe names."""
    validates = recipe.val_split != "none"
    val_data = emotic.load(root, recipe.val_split) if validates else None
    data = emotic.load(root, recipe.split)
    return loop.train(settings, recipe, data, val_data, folder, report=report, **callbacks)


def samples(root, split="train", count=1):
    """Samples of a split."""
    return SampleReader(emotic.load(root, split)).draw(0, count)


def logged(folder, key="loss"):
    """The values of one column of a training log."""
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row[key] for row in rows if key in row]


def log_odds(recognizer, scene):
    """(people, labels) log-odds that a recognizer serves."""
    return logit(np.array([a.scores for a in recognizer.assess(scene, scene.people)]))
