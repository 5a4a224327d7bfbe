"""What a behaviour planner imports to read the node's messages."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emotion_perception.client.emotion_client import EmotionClient as EmotionClient
    from emotion_perception.client.listener import EmotionListener as EmotionListener

from emotion_perception.client.people import (
    DISTRESS,
    Appeared,
    CurrentPeople,
    Event,
    LabelChanged,
    Left,
    Levels,
    NodeStatus,
    Person,
    ScoreChanged,
    StatusChanged,
)

__all__ = [
    "DISTRESS",
    "Appeared",
    "CurrentPeople",
    "EmotionClient",
    "EmotionListener",
    "Event",
    "LabelChanged",
    "Left",
    "Levels",
    "NodeStatus",
    "Person",
    "ScoreChanged",
    "StatusChanged",
]

# Imported at their first use, so that a program that reads a bag needs no ROS.
_NEED_ROS = {"EmotionClient": "emotion_client", "EmotionListener": "listener"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_ROS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NEED_ROS[name]}"), name)
