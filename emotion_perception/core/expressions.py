"""The words of ROS4HRI for EMOTIC's labels.

`hri_msgs/Expression` holds one of 25 words. They have no "unknown", and no word for several of
EMOTIC's labels. Such a label has none here rather than a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable

EXPRESSION_WORDS = (
    *("neutral", "angry", "sad", "happy", "surprised", "disgusted", "scared", "pleading"),
    *("vulnerable", "despaired", "guilty", "disappointed", "embarrassed", "horrified"),
    *("skeptical", "annoyed", "furious", "suspicious", "rejected", "bored", "tired", "asleep"),
    *("confused", "amazed", "excited"),
)
"""The words of `hri_msgs/Expression`, which are the same in Humble and Jazzy."""

EXPRESSION_OF: dict[str, str] = {
    "affection": "happy",
    "anger": "angry",
    "annoyance": "annoyed",
    "anticipation": "",
    "aversion": "disgusted",
    "confidence": "",
    "disapproval": "annoyed",
    "disconnection": "bored",
    "disquietment": "scared",
    "doubt/confusion": "confused",
    "embarrassment": "embarrassed",
    "engagement": "neutral",
    "esteem": "",
    "excitement": "excited",
    "fatigue": "tired",
    "fear": "scared",
    "happiness": "happy",
    "pain": "",
    "peace": "neutral",
    "pleasure": "happy",
    "sadness": "sad",
    "sensitivity": "vulnerable",
    "suffering": "despaired",
    "surprise": "surprised",
    "sympathy": "",
    "yearning": "",
    "disgust": "disgusted",
    "neutral": "neutral",
}
"""Label to word, empty: none. EMOTIC's labels, then those that only the recognizer `face` has."""


def expression_of(labels: Iterable[str]) -> tuple[str, str]:
    """Return the first label that has a word of ROS4HRI, and the word; empty: none has one.

    A label of other data that is itself one of the words keeps it.

    Args:
        labels: The active labels of an estimate, the leading one first.
    """
    for label in labels:
        word = EXPRESSION_OF.get(label, label)
        if word in EXPRESSION_WORDS:
            return label, word
    return "", ""


def expression_table() -> str:
    """Return the mapping as the Markdown table of docs/reference/expressions.md."""
    rows = [f"| {label} | {word or '(none)'} |" for label, word in EXPRESSION_OF.items()]
    return "\n".join(["| label | `hri_msgs/Expression` |", "|---|---|", *rows])
