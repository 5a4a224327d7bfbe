"""What a vision-language model is shown and asked about one person.

Training and serving both take their pictures and their words from here. A prompt is one user turn;
its pictures come before the words that refer to them, and the question comes last, so that the
prompts about one scene begin alike and the model needs to read that beginning only once
(`packing.py`):

    both   glossary, the plain scene │ the person's crop │ question     the default
    mark   glossary │ the scene with the person in a red box │ question
    crop   glossary │ the person's crop │ question

`mark` is the protocol of Etesam et al. 2024. It draws into the scene, so each person needs a whole
picture of their own; under `both` one plain scene serves everybody, whoever else is asked about.
`crop` leaves the context out. The glossary holds the scales of the numbers and EMOTIC's definition
of every label; the definitions can also stand in the questions, each with its own, or be left out
(`recognizer.definitions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from emotion_perception.core.labels import EMOTIC, VAD
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Box

Picture = npt.NDArray[np.uint8]
"""(H, W, 3), RGB."""

_RED = (255, 0, 0)
_MAX_ASPECT = 8
"""Slimmer pictures are stretched to this: the models refuse slivers."""

DIGITS = tuple("123456789")
"""The answers to a question for a number, from the low end of its scale to the high one."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The pictures of one round; one that several people share is there once."""

    pictures: tuple[Picture, ...]
    seen: tuple[tuple[int, ...], ...]
    """For each person the numbers of their pictures, in the order of the prompt."""

    def part(self, start: int, stop: int) -> Shown:
        """What some of the people see."""
        seen = self.seen[start:stop]
        wanted = sorted({i for pictures in seen for i in pictures})
        place = {number: i for i, number in enumerate(wanted)}
        return Shown(
            tuple(self.pictures[i] for i in wanted),
            tuple(tuple(place[i] for i in pictures) for pictures in seen),
        )


def show(image: Picture, boxes: Sequence[Box], settings: RecognizerSettings) -> Shown:
    """The pictures for these people of one camera picture.

    Raises:
        ValueError: a box lies outside the picture.
    """
    view, scene_size = settings.person_view, settings.scene_size
    if view == "mark":
        marked = tuple(mark(image, box, scene_size) for box in boxes)
        return Shown(marked, tuple((i,) for i in range(len(boxes))))
    crops = tuple(cut_out(image, box, settings.crop_size) for box in boxes)
    if view == "crop":
        return Shown(crops, tuple((i,) for i in range(len(boxes))))
    scene = resize(image, scene_size)
    return Shown((scene, *crops), tuple((0, i + 1) for i in range(len(boxes))))


def resize(picture: Picture, size: int) -> Picture:
    """Scale so that the longer side has `size` pixels."""
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    least = max(size // _MAX_ASPECT, 1)
    wanted = (max(round(width * scale), least), max(round(height * scale), least))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(picture, wanted, interpolation=how)  # type: ignore[return-value]


def cut_out(image: Picture, box: Box, size: int) -> Picture:
    """The person alone, with the longer side scaled to `size` pixels.

    Raises:
        ValueError: the box lies outside the picture.
    """
    rows, columns = box.pixels(image.shape[1], image.shape[0])
    return resize(image[rows, columns], size)


def mark(image: Picture, box: Box, size: int) -> Picture:
    """The scene with a red rectangle around the person, its longer side scaled to `size` pixels.

    Raises:
        ValueError: the box lies outside the picture.
    """
    rows, columns = box.pixels(image.shape[1], image.shape[0])
    scene = resize(image, size)  # first, so that the line is as thick for every camera
    down, across = scene.shape[0] / image.shape[0], scene.shape[1] / image.shape[1]
    corner = (round(columns.start * across), round(rows.start * down))
    opposite = (round(columns.stop * across) - 1, round(rows.stop * down) - 1)
    cv2.rectangle(scene, corner, opposite, _RED, thickness=max(2, size // 150))
    return scene


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that is asked about a person, and the words that may answer it."""

    text: str
    answers: tuple[str, ...]
    """What may follow; the scores are read from how much the model likes each."""
    in_words: bool = False
    """The answers are words of any length, instead of one token each."""
    begun: str = ""
    """How the model's answer is made to begin; what may answer follows it."""


YES_NO = ("yes", "no")
ONE_FOR_ALL = (
    "For each feeling that is named say yes or no: does this person have it? For each dimension "
    "that is named say a digit."
)
"""The only question where leaves are short."""

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""One for each label of EMOTIC."""


def label_questions(settings: RecognizerSettings) -> list[Question]:
    """What is asked to score EMOTIC's labels: one question each, in their order, or one for all.

    The words that differ stand as late as they can: what comes before is read once for all.
    """
    if settings.scoring == "letters":
        text = "Answer with one letter: which of the feelings does this person show most?"
        return [Question(text, LETTERS)]
    if settings.scoring == "labels":
        text = "Answer with one of the words for feelings: how does this person feel?"
        return [Question(text, tuple(spoken(label) for label in EMOTIC), in_words=True)]
    with_meaning = settings.definitions == "question"
    feelings = [
        f"{spoken(label)} ({meaning})" if with_meaning else spoken(label)
        for label, meaning in EMOTIC.items()
    ]
    if settings.answer_format == "continuation":
        return [Question(ONE_FOR_ALL, YES_NO, begun=f"{feeling}:") for feeling in feelings]
    return [
        Question(f"Answer with yes or no: does this person feel {feeling}?", YES_NO)
        for feeling in feelings
    ]


def vad_questions(settings: RecognizerSettings) -> list[Question]:
    """A question for a number each for valence, arousal and dominance, on the scales in front."""
    if settings.answer_format == "continuation":
        return [Question(ONE_FOR_ALL, DIGITS, begun=f"{dimension}:") for dimension in VAD]
    return [
        Question(f"Answer with a digit: rate this person's {dimension}.", DIGITS)
        for dimension in VAD
    ]


def questions(settings: RecognizerSettings) -> list[Question]:
    """All that is asked to score a person, numbers last; nothing where the model writes.

    Where a head reads the states before the answer, the question is a single one.
    """
    if settings.scoring == "generate":
        return []
    if settings.scoring == "head":
        return [Question("How does this person feel?", YES_NO)]
    return [*label_questions(settings), *vad_questions(settings)]


WHY = (
    "Answer in one short sentence: what in the posture, the face, the action and the scene makes "
    "this person seem to feel as they do?"
)
"""What is asked when a person wants to know, and not for a score."""


PAPER_ORDER = (
    "suffering", "pain", "aversion", "disapproval", "anger", "fear", "annoyance", "fatigue",
    "disquietment", "doubt/confusion", "embarrassment", "disconnection", "affection", "confidence",
    "engagement", "happiness", "peace", "pleasure", "esteem", "excitement", "anticipation",
    "yearning", "sensitivity", "surprise", "sadness", "sympathy",
)  # fmt: skip
"""The labels as the prompt of Etesam et al. 2024 lists them."""

_COUNTS = ("top", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def request(settings: RecognizerSettings) -> str:
    """What a model is asked that writes the labels down (`recognizer.scoring = generate`).

    With the red box, no definitions and no number of labels it is the prompt of Etesam et al.
    2024, word for word. Their starred systems add definitions and ask for six labels; how that is
    worded is not published, so those words are ours.
    """
    names = [
        label if settings.definitions == "none" else f"{label} ({EMOTIC[label]})"
        for label in PAPER_ORDER
    ]
    wanted = settings.label_count
    count = _COUNTS[wanted] if wanted < len(_COUNTS) else str(wanted)
    noun = "label" if wanted == 1 else "labels"
    who = "the person in the red bounding box" if settings.person_view == "mark" else "this person"
    return (
        f"From {', '.join(names[:-1])}, and {names[-1]}, pick the {count} {noun} that {who} is "
        "feeling at the same time."
    )


WORDS_OF_A_REASON = 60
"""Tokens, at most, of an answer to `WHY`."""

WORDS_OF_AN_ANSWER = 120
"""Tokens, at most, of an answer to `request`: room for all of EMOTIC's labels."""


def spoken(label: str) -> str:
    """A label as one would say it."""
    return label.replace("/", " or ")


def glossary(settings: RecognizerSettings) -> str:
    """What all questions presuppose: the scales, and the words for feelings where needed.

    It stands in front because there it is read once for everybody.
    """
    scales = [f"{name} from 1, {low}, to 9, {high}." for name, (low, high) in VAD.items()]
    lines = ["Scales:", *scales]
    if settings.scoring == "head":
        return ""
    if settings.scoring != "yes_no" or settings.definitions == "glossary":
        lines.append("Words for feelings:")
        for letter, (label, meaning) in zip(LETTERS, EMOTIC.items(), strict=True):
            line = f"{letter}: {spoken(label)}" if settings.scoring == "letters" else spoken(label)
            lines.append(line if settings.definitions == "none" else f"{line} means {meaning}.")
    return "\n".join(lines) + "\n"


def messages(settings: RecognizerSettings, question: str) -> list[dict[str, Any]]:
    """The chat that asks about one person, as the chat templates of transformers take it."""
    if settings.scoring == "generate":
        pictures = [_picture()] * (2 if settings.person_view == "both" else 1)
        return [{"role": "user", "content": [*pictures, _text(question)]}]
    if settings.person_view == "both":
        content = [
            _picture(),
            _text("\nThis is a scene.\n"),
            _picture(),
            _text(f"\nThis is one person of the scene. {question}"),
        ]
    elif settings.person_view == "mark":
        content = [_picture(), _text(f"\nLook at the person in the red box. {question}")]
    else:
        content = [_picture(), _text(f"\nThis is one person. {question}")]
    return [{"role": "user", "content": [_text(glossary(settings)), *content]}]


def text_messages(
    settings: RecognizerSettings, description: str, question: str
) -> list[dict[str, str]]:
    """The chat that asks a model that reads about somebody who is described to it."""
    if settings.scoring == "generate":
        content = f"{description} {question}"
    else:
        content = f"{glossary(settings)}{description}\n{question}"
    return [{"role": "user", "content": content.strip()}]


def _picture() -> dict[str, str]:
    return {"type": "image"}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
