"""The images and the words of the prompts about one person.

Training and serving share this module. A prompt is one user turn: its images come before the words
that refer to them, and the question comes last. The prompts about one scene therefore share their
beginning, and the model reads that beginning once (`packing.py`):

    both   glossary, the plain scene │ the person's crop │ question     the default
    mark   glossary │ the scene with the person in a red box │ question
    crop   glossary │ the person's crop │ question

`mark` is the protocol of Etesam et al. 2024. It draws into the scene image, so each person needs a
scene image of their own; with `both` one plain scene image serves all people. `crop` leaves the
context out. Some chat templates put all images of a turn first, as LLaVA's own do; with them the
glossary is a system message, so that it is still shared.

The glossary holds the scales of the dimensions and EMOTIC's definition of each label. The
definitions can also stand in the questions, or be left out (`recognizer.definitions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from emotion_perception.core.labels import EMOTIC, VAD
from emotion_perception.core.recognizer_settings import ImagePromptSettings, PromptSettings
from emotion_perception.core.values import Box, ImageArray

_RED = (255, 0, 0)
_MAX_ASPECT = 8
"""Narrower images are stretched to this aspect ratio, since the models reject them."""

DIGITS = tuple("123456789")
"""The answers to a question about a dimension, from the low to the high end of its scale."""


@dataclass(frozen=True, slots=True, eq=False)
class PromptImages:
    """The images of one round; an image that several people share is contained once."""

    images: tuple[ImageArray, ...]
    person_images: tuple[tuple[int, ...], ...]
    """For each person the indices of their images, in the order of the prompt."""

    def of_person(self, person: int) -> list[ImageArray]:
        """Return the images of one person, by index."""
        return [self.images[i] for i in self.person_images[person]]

    def select(self, start: int, stop: int) -> PromptImages:
        """Return the images of the people from `start` to before `stop`."""
        people = self.person_images[start:stop]
        used = sorted({i for person in people for i in person})
        index = {old: new for new, old in enumerate(used)}
        return PromptImages(
            tuple(self.images[i] for i in used),
            tuple(tuple(index[i] for i in person) for person in people),
        )


def make_prompt_images(
    image: ImageArray, boxes: Sequence[Box], settings: ImagePromptSettings
) -> PromptImages:
    """Prepare the images of the prompts about these people of one frame.

    Raises:
        ValueError: a box lies outside the image.
    """
    view, scene_size = settings.person_view, settings.scene_size
    if view == "mark":
        marked = tuple(mark_person(image, box, scene_size) for box in boxes)
        return PromptImages(marked, tuple((i,) for i in range(len(boxes))))
    crops = tuple(crop_person(image, box, settings.crop_size) for box in boxes)
    if view == "crop":
        return PromptImages(crops, tuple((i,) for i in range(len(boxes))))
    scene = resize(image, scene_size)
    return PromptImages((scene, *crops), tuple((0, i + 1) for i in range(len(boxes))))


def resize(image: ImageArray, size: int) -> ImageArray:
    """Scale an image so that its longer side has `size` pixels."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    min_side = max(size // _MAX_ASPECT, 1)
    target = (max(round(width * scale), min_side), max(round(height * scale), min_side))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, target, interpolation=interpolation)  # type: ignore[return-value]


def crop_person(image: ImageArray, box: Box, size: int) -> ImageArray:
    """Cut out one person, with the longer side scaled to `size` pixels.

    Raises:
        ValueError: the box lies outside the image.
    """
    rows, columns = box.pixels(image.shape[1], image.shape[0])
    return resize(image[rows, columns], size)


def mark_person(image: ImageArray, box: Box, size: int) -> ImageArray:
    """Draw a red box around one person, with the longer side of the scene scaled to `size` pixels.

    Raises:
        ValueError: the box lies outside the image.
    """
    rows, columns = box.pixels(image.shape[1], image.shape[0])
    scene = resize(image, size)  # before drawing, so that the line is equally thick for each camera
    down, across = scene.shape[0] / image.shape[0], scene.shape[1] / image.shape[1]
    corner = (round(columns.start * across), round(rows.start * down))
    opposite = (round(columns.stop * across) - 1, round(rows.stop * down) - 1)
    cv2.rectangle(scene, corner, opposite, _RED, thickness=max(2, size // 150))
    return scene


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a person, and the answers that are scored."""

    text: str
    answers: tuple[str, ...]
    """The answers whose log-probabilities are read."""
    in_words: bool = False
    """The answers are phrases of any length instead of one token each."""
    answer_prefix: str = ""
    """Words that the model's answer begins with; the scored answer follows them."""


YES_NO = ("yes", "no")
SHARED_QUESTION = (
    "For each feeling that is named say yes or no: does this person have it? For each dimension "
    "that is named say a digit."
)
"""The only question with `answer_format: continuation`."""

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""One letter per label of EMOTIC."""


def label_questions(settings: PromptSettings) -> list[Question]:
    """Return the questions that score EMOTIC's labels: one per label in order, or one for all.

    The words that differ come as late as possible: the model reads what precedes them once.
    """
    if settings.scoring == "letters":
        text = "Answer with one letter: which of the feelings does this person show most?"
        return [Question(text, LETTERS)]
    if settings.scoring == "labels":
        text = "Answer with one of the words for feelings: how does this person feel?"
        return [Question(text, tuple(label_phrase(label) for label in EMOTIC), in_words=True)]
    with_meaning = settings.definitions == "question"
    feelings = [
        f"{label_phrase(label)} ({meaning})" if with_meaning else label_phrase(label)
        for label, meaning in EMOTIC.items()
    ]
    if settings.answer_format == "continuation":
        return [
            Question(SHARED_QUESTION, YES_NO, answer_prefix=f"{feeling}:") for feeling in feelings
        ]
    return [
        Question(f"Answer with yes or no: does this person feel {feeling}?", YES_NO)
        for feeling in feelings
    ]


def vad_questions(settings: PromptSettings) -> list[Question]:
    """Return the questions about valence, arousal and dominance, on the scales of the glossary."""
    if settings.answer_format == "continuation":
        return [
            Question(SHARED_QUESTION, DIGITS, answer_prefix=f"{dimension}:") for dimension in VAD
        ]
    return [
        Question(f"Answer with a digit: rate this person's {dimension}.", DIGITS)
        for dimension in VAD
    ]


def questions(settings: PromptSettings) -> list[Question]:
    """Return all questions that score a person, dimensions last; none with `scoring: generate`.

    With `scoring: head` there is a single question, whose states before the answer are read.
    """
    if settings.scoring == "generate":
        return []
    if settings.scoring == "head":
        return [Question("How does this person feel?", YES_NO)]
    return [*label_questions(settings), *vad_questions(settings)]


RATIONALE_QUESTION = (
    "Answer in one short sentence: what in the posture, the face, the action and the scene makes "
    "this person seem to feel as they do?"
)
"""The question of `explain` and of rationales; no score comes from it."""


PAPER_ORDER = (
    "suffering", "pain", "aversion", "disapproval", "anger", "fear", "annoyance", "fatigue",
    "disquietment", "doubt/confusion", "embarrassment", "disconnection", "affection", "confidence",
    "engagement", "happiness", "peace", "pleasure", "esteem", "excitement", "anticipation",
    "yearning", "sensitivity", "surprise", "sadness", "sympathy",
)  # fmt: skip
"""The labels in the order of the prompt of Etesam et al. 2024."""

_COUNTS = ("top", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def generation_prompt(settings: PromptSettings) -> str:
    """Return the prompt of a model that generates labels (`recognizer.scoring = generate`).

    With the red box, no definitions and no number of labels it is the prompt of Etesam et al.
    2024, word for word. Their starred systems add definitions and ask for six labels; the paper
    does not give that wording, so this one is ours.
    """
    names = [
        label if settings.definitions == "none" else f"{label} ({EMOTIC[label]})"
        for label in PAPER_ORDER
    ]
    number = settings.label_count
    count = _COUNTS[number] if number < len(_COUNTS) else str(number)
    noun = "label" if number == 1 else "labels"
    marked = settings.person_view == "mark"
    person = "the person in the red bounding box" if marked else "this person"
    return (
        f"From {', '.join(names[:-1])}, and {names[-1]}, pick the {count} {noun} that {person} is "
        "feeling at the same time."
    )


MAX_RATIONALE_TOKENS = 60
"""Maximum length of the answer to `RATIONALE_QUESTION`."""

MAX_ANSWER_TOKENS = 120
"""Maximum length of the answer to `generation_prompt`: enough for all of EMOTIC's labels."""


def label_phrase(label: str) -> str:
    """Return a label in words: "doubt or confusion" for "doubt/confusion"."""
    return label.replace("/", " or ")


def glossary(settings: PromptSettings) -> str:
    """Return the text before the images: the scales, and the definitions of labels where needed.

    It comes first, so that the model reads it once for all people.
    """
    scales = [f"{name} from 1, {low}, to 9, {high}." for name, (low, high) in VAD.items()]
    lines = ["Scales:", *scales]
    if settings.scoring == "head":
        return ""
    if settings.scoring != "yes_no" or settings.definitions == "glossary":
        lines.append("Words for feelings:")
        for letter, (label, meaning) in zip(LETTERS, EMOTIC.items(), strict=True):
            line = (
                f"{letter}: {label_phrase(label)}"
                if settings.scoring == "letters"
                else label_phrase(label)
            )
            lines.append(line if settings.definitions == "none" else f"{line} means {meaning}.")
    return "\n".join(lines) + "\n"


def messages(
    settings: ImagePromptSettings, question: str, glossary_first: bool = False
) -> list[dict[str, Any]]:
    """Return the chat about one person, in the form of transformers' chat templates.

    Args:
        settings: which images and words to show.
        question: the end of the prompt.
        glossary_first: give the glossary as a system message. It then comes before the images with
            templates that put the images of a message before its words, too.
    """
    if settings.scoring == "generate":
        images = [_image_part()] * (2 if settings.person_view == "both" else 1)
        return [{"role": "user", "content": [*images, _text_part(question)]}]
    if settings.person_view == "both":
        content = [
            _image_part(),
            _text_part("\nThis is a scene.\n"),
            _image_part(),
            _text_part(f"\nThis is one person of the scene. {question}"),
        ]
    elif settings.person_view == "mark":
        content = [_image_part(), _text_part(f"\nLook at the person in the red box. {question}")]
    else:
        content = [_image_part(), _text_part(f"\nThis is one person. {question}")]
    words = _text_part(glossary(settings))
    if glossary_first:
        return [{"role": "system", "content": [words]}, {"role": "user", "content": content}]
    return [{"role": "user", "content": [words, *content]}]


def text_messages(
    settings: PromptSettings, description: str, question: str
) -> list[dict[str, str]]:
    """Return the chat for a text model that reads a description of the person."""
    if settings.scoring == "generate":
        content = f"{description} {question}"
    else:
        content = f"{glossary(settings)}{description}\n{question}"
    return [{"role": "user", "content": content.strip()}]


def _image_part() -> dict[str, str]:
    return {"type": "image"}


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
