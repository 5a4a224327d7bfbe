"""The vocabularies: EMOTIC's 26 categories with their definitions, and the affect dimensions.

Source: Kosti et al., "Context Based Emotion Recognition using EMOTIC Dataset", TPAMI 2019;
the definitions are quoted from the data set's annotation page (sunai.uoc.edu/emotic).
EMOTIC has no neutral class; "engagement" serves as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from emotion_perception.core.values import Vad

EMOTIC: dict[str, str] = {
    "affection": "fond feelings; love; tenderness",
    "anger": "intense displeasure or rage; furious; resentful",
    "annoyance": "bothered by something or someone; irritated; impatient; frustrated",
    "anticipation": "state of looking forward; hoping on or getting prepared for possible "
    "future events",
    "aversion": "feeling disgust, dislike, repulsion; feeling hate",
    "confidence": "feeling of being certain; conviction that an outcome will be favorable; "
    "encouraged; proud",
    "disapproval": "feeling that something is wrong or reprehensible; contempt; hostile",
    "disconnection": "feeling not interested in the main event of the surrounding; "
    "indifferent; bored; distracted",
    "disquietment": "nervous; worried; upset; anxious; tense; pressured; alarmed",
    "doubt/confusion": "difficulty to understand or decide; thinking about different options",
    "embarrassment": "feeling ashamed or guilty",
    "engagement": "paying attention to something; absorbed into something; curious; interested",
    "esteem": "feelings of favorable opinion or judgment; respect; admiration; gratefulness",
    "excitement": "feeling enthusiasm; stimulated; energetic",
    "fatigue": "weariness; tiredness; sleepy",
    "fear": "feeling suspicious or afraid of danger, threat, evil or pain; horror",
    "happiness": "feeling delighted; feeling enjoyment or amusement",
    "pain": "physical suffering",
    "peace": "well being and relaxed; no worry; having positive thoughts or sensations; satisfied",
    "pleasure": "feeling of delight in the senses",
    "sadness": "feeling unhappy, sorrow, disappointed, or discouraged",
    "sensitivity": "feeling of being physically or emotionally wounded; feeling delicate or "
    "vulnerable",
    "suffering": "psychological or emotional pain; distressed; anguished",
    "surprise": "sudden discovery of something unexpected",
    "sympathy": "state of sharing others' emotions, goals or troubles; supportive; compassionate",
    "yearning": "strong desire to have something; jealous; envious; lust",
}
"""Category to definition, in alphabetical order: the order of every score array."""

EMOTIC_LABELS: tuple[str, ...] = tuple(EMOTIC)

VAD: dict[str, tuple[str, str]] = {
    "valence": ("very negative", "very positive"),
    "arousal": ("very calm", "very agitated"),
    "dominance": ("without any control", "fully in control"),
}
"""Dimension to the words for its two ends."""


def without_thoughts(text: str) -> str:
    """Return the answer in a generated text, without the model's thoughts between markers.

    A chat template may write the first marker itself, and a token limit may cut off the second: all
    text before an end without a beginning, and after a beginning without an end, is thoughts too.
    """
    for thoughts in _THOUGHTS:
        text = thoughts.sub(" ", text)
    return text.strip()


def named_in(text: str) -> tuple[str, ...]:
    """Return the labels that a text names as whole words, upper and lower case alike.

    "doubt/confusion" is named by either of its words. Thoughts name nothing.
    """
    answer = without_thoughts(text)
    return tuple(label for label, words in _WORDS.items() if words.search(answer))


def named_in_as_in_paper(text: str) -> tuple[str, ...]:
    """Return the labels that are substrings of a text, as Etesam et al. 2024 extract them.

    It serves comparison with their figures: "fearful" contains "fear", "displeasure" contains
    "pleasure", and "Happiness" with a capital contains nothing. Thoughts contain nothing.
    """
    answer = without_thoughts(text)
    return tuple(label for label in EMOTIC_LABELS if label in answer)


_TAG = "(?:think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad)"
_MARKERS = (
    (rf"<(?:\w+:)?{_TAG}\b[^<>/]*>", rf"</(?:\w+:)?{_TAG}\s*>"),  # DeepSeek, Qwen, EXAONE, Seed
    (r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi-VL
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker
    (r"<\|start_thinking\|>", r"<\|end_thinking\|>"),  # Command A
    (r"<\|channel>thought\b", r"<channel\|>"),  # Gemma 4
    (r"<unused94>thought\b", "<unused95>"),  # MedGemma
    # gpt-oss
    (r"<\|channel\|>(?:analysis|commentary)\b", r"<\|channel\|>final\b(?:<\|message\|>)?"),
)
"""Beginning and end of thoughts in the texts of several model families, as patterns."""
_BEGIN, _END = (f"(?:{'|'.join(markers)})" for markers in zip(*_MARKERS, strict=True))
_THOUGHTS = [
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (f"{_BEGIN}.*?{_END}", rf"\A.*{_END}", rf"{_BEGIN}.*\Z")
]
"""Whole thoughts, then those without a beginning, then those without an end."""

_WORDS = {
    label: re.compile(rf"\b(?:{label.replace('/', '|')})\b", re.IGNORECASE)
    for label in EMOTIC_LABELS
}


def label_array(names: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Return which of EMOTIC's labels are named as a (26,) array; upper and lower case are equal.

    Raises:
        ValueError: A name is not an EMOTIC label.
    """
    array = np.zeros(len(EMOTIC_LABELS), bool)
    for name in names:
        if name.lower() not in EMOTIC_LABELS:
            raise ValueError(f"{name!r} is not an EMOTIC label: {', '.join(EMOTIC_LABELS)}")
        array[EMOTIC_LABELS.index(name.lower())] = True
    return array


def vad_from_emotic(ratings: Sequence[float]) -> Vad:
    """Convert ratings on EMOTIC's scale, 1..10, to values in -1..1."""
    return Vad(*((rating - 5.5) / 4.5 for rating in ratings))


def vad_to_emotic(vad: Sequence[float]) -> tuple[float, float, float]:
    """Convert values in -1..1 to EMOTIC's scale, 1..10."""
    valence, arousal, dominance = (value * 4.5 + 5.5 for value in vad)
    return valence, arousal, dominance
