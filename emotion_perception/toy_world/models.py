"""The small models that were trained on the toy world, and the settings to use them with."""

from __future__ import annotations

from pathlib import Path

from emotion_perception.core.schema import Value

MODEL_FOLDER = Path(__file__).parents[1] / "data" / "small_world"
"""Holds a YOLO and a vision-language model; `make small-models` trains them again."""

FIRST_TRAINING_SEED = 1_000
"""The first seed of the training worlds; validation and test worlds have smaller seeds."""

PROMPT_SETTINGS: dict[str, Value] = {
    "recognizer.definitions": "none",
    "recognizer.answer_format": "continuation",
    "recognizer.scene_size": 96,
    "recognizer.crop_size": 96,
}
"""Settings that the small vision-language model was trained with."""

SETTINGS: dict[str, Value] = {
    "detector.name": "yolo",
    "detector.model": str(MODEL_FOLDER / "yolo.pt"),
    "detector.image_size": 320,
    "recognizer.name": "vlm",
    "recognizer.model": str(MODEL_FOLDER / "vlm"),
    **PROMPT_SETTINGS,
}
"""Settings of a node that uses the small models."""
