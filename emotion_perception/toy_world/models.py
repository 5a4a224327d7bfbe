"""The small models that were trained on the small world, and how they are asked."""

from __future__ import annotations

from pathlib import Path

from emotion_perception.core.schema import Value

MODEL_FOLDER = Path(__file__).parents[1] / "data" / "small_world"
"""A YOLO and a vision-language model; `make small-models` makes them again."""

FIRST_TRAINING_SEED = 1_000
"""They learnt from worlds from here on; those for validation and tests have smaller seeds."""

PROMPT_SETTINGS: dict[str, Value] = {
    "recognizer.definitions": "none",
    "recognizer.answer_format": "continuation",
    "recognizer.scene_size": 96,
    "recognizer.crop_size": 96,
}
"""How the small vision-language model is asked."""

SETTINGS: dict[str, Value] = {
    "detector.name": "yolo",
    "detector.model": str(MODEL_FOLDER / "yolo.pt"),
    "detector.image_size": 320,
    "recognizer.name": "vlm",
    "recognizer.model": str(MODEL_FOLDER / "vlm"),
    **PROMPT_SETTINGS,
}
"""What makes the node look at the small world with them."""
