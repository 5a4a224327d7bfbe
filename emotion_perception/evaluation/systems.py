"""The rows of the table of Etesam et al. 2024, as settings of recognizers, and the ablations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table."""

    description: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the recognizer; options of the command override them."""
    needs: tuple[str, ...] = ()
    """Settings without a default, which the user must set."""
    generating: Mapping[str, Any] = field(default_factory=dict)
    """Settings with `--decoding generate`, where they differ: what the paper's model sees."""


FULL_INPUT = "scene+person"
ABLATIONS = {
    FULL_INPUT: "the whole image",
    "person": "grey around the person",
    "scene": "grey instead of the person",
    "text": "a grey image, to measure the prior of the system",
    "swap": "the person in front of another image",
}
"""Name to description of each way to show only a part of the images, see `ablations`."""

_PLAIN = {"person_view": "mark", "definitions": "none"}
_STARRED = {"person_view": "mark", "definitions": "glossary", "label_count": 6}

_LLAVA = {"scene_size": 336}
"""The longer side of the square that LLaVA-1.5 sees."""
_SERVER = {"scene_size": 4096}
"""The largest value: the server gets each image of EMOTIC in its own size, like GPT-4 vision."""

SYSTEMS: dict[str, System] = {
    "majority": System(
        "the six most frequent labels of a split for each person", {"name": "majority"}
    ),
    "rand6": System("six labels drawn uniformly", {"name": "rand6"}),
    "rand6-weighted": System("six labels drawn by frequency", {"name": "rand6-weighted"}),
    "clip": System("zero-shot CLIP or SigLIP over label prompts", {"name": "clip"}, ("model",)),
    "vlm": System(
        "a vision-language model, the paper's red box",
        {"name": "vlm", **_PLAIN},
        generating=_LLAVA,
    ),
    "vlm*": System(
        "the same with definitions and six labels",
        {"name": "vlm", **_STARRED},
        generating=_LLAVA,
    ),
    "vlm-ours": System("a vision-language model as on the robot", {"name": "vlm"}),
    "narracap": System(
        "a narrative caption by CLIP, read by a text model",
        {"name": "narracap", "definitions": "none"},
        ("model",),
    ),
    "llm": System(
        "a text model on captions from a file",
        {"name": "llm", "definitions": "none"},
        ("captions",),
    ),
    "caption": System(
        "a captioning model, read by a text model",
        {"name": "caption", "definitions": "none"},
        ("model",),
    ),
    "emotic-cnn": System("body and context CNN (Kosti et al.)", {"name": "emotic-cnn"}, ("model",)),
    "face": System("faces only", {"name": "face"}),
    "remote": System(
        "the paper's prompt to a server", {"name": "remote", **_PLAIN}, ("model",), _SERVER
    ),
    "remote*": System(
        "the same with definitions and six labels",
        {"name": "remote", **_STARRED},
        ("model",),
        _SERVER,
    ),
    "vlm-f": System(
        "vlm with a fine-tuned adapter", {"name": "vlm", **_PLAIN}, ("adapter",), _LLAVA
    ),
    "llm-f": System(
        "llm with a fine-tuned adapter",
        {"name": "llm", "definitions": "none"},
        ("adapter", "captions"),
    ),
    "two-stream": System("BridgeTower, two streams", {"name": "two-stream"}, ("model",)),
    "single-stream": System("ViLT, one stream", {"name": "single-stream"}, ("model",)),
}
"""Name of the row to system; a star marks definitions and six labels, as in the paper."""
