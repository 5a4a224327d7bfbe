"""NarraCap (Etesam et al. 2024): a person's story from what CLIP finds most likely.

    who     the crop of the person    a photo of {a woman}
    where   the whole picture         a photo of {a park}
    what    the whole picture         a photo of a person who {is playing chess}
    how     the crop of the person    a photo of a person who {is rubbing the chin}

    This person is a woman who is playing chess in a park. This person is rubbing the chin.

Each question is one softmax over a list of words. The first three take the likeliest, the last all
outliers (`select_outliers`). The paper goes on with "He" or "She"; who somebody is was guessed
once and is not guessed again here. Our lists are our own: the paper's are longer. And people are
seen whole, while CLIP's usual processing cuts the middle square out of a picture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from emotion_perception.core.errors import ModelError
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import FloatArray, Scene, Track

DEFAULT_WORDS = Path(__file__).parents[2] / "data" / "narracap"

STANDARD_DEVIATIONS = 9
"""How far above the mean of the list a signal has to be, as in the paper.

By arithmetic fewer than N / 82 of N probabilities can be: two of 200, none of 82.
"""

_AN = re.compile(
    r"(?!eu|ewe|onc?e\b|u\b|uni[cfoqtv]|us[aeu]|uten)[aeiou]|h(?:eir|onest|onou?r|our)",
    re.IGNORECASE,
)
"""How a word begins that is spoken with a vowel first."""


@dataclass(frozen=True, slots=True)
class Words:
    """The lists to choose from; persons and places are without an article."""

    who: tuple[str, ...]
    where: tuple[str, ...]
    what: tuple[str, ...]
    """In the third person: "is playing chess"."""
    how: tuple[str, ...]
    """As `what`."""


def read_words(folder: Path | str = DEFAULT_WORDS) -> Words:
    """The lists in who.txt, where.txt, what.txt, how.txt: one entry a line, # for comments.

    Raises:
        ModelError: a file is missing, cannot be read, is empty or names something twice.
    """
    return Words(*(_read_list(Path(folder) / f"{field.name}.txt") for field in fields(Words)))


def _read_list(file: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"the words in {file} cannot be read ({error}): put who.txt, where.txt, what.txt and "
            "how.txt into the folder recognizer.words, or set it to nothing"
        ) from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise ModelError(f"{file} names nothing: write one entry a line")
    if twice := next((e for i, e in enumerate(entries) if e in entries[:i]), ""):
        raise ModelError(f"{file} names {twice!r} more than once: keep one")
    return tuple(entries)


def with_article(noun: str) -> str:
    """The noun as one speaks of it first: a park, an office."""
    return f"{'an' if _AN.match(noun) else 'a'} {noun}"


def narrative(who: str, what: str, where: str, how: Sequence[str]) -> str:
    """The story, from entries of `Words`."""
    story = f"This person is {with_article(who)} who {what} in {with_article(where)}."
    return " ".join([story, *(f"This person {signal}." for signal in how)])


def select_outliers(probabilities: FloatArray, by: float = STANDARD_DEVIATIONS) -> list[int]:
    """The numbers of those above mean + `by` standard deviations, the likeliest first.

    Args:
        probabilities: (N,), which sum to 1.
    """
    limit = probabilities.mean() + by * probabilities.std()
    order = np.argsort(-probabilities, kind="stable")
    return [int(i) for i in order if probabilities[i] > limit]


class NarraCap:
    """What is seen of people, told by CLIP or SigLIP in whole sentences."""

    def __init__(self, settings: RecognizerSettings) -> None:
        """Read the words, load the model and show the words to it.

        Raises:
            ModelError: words or model are missing or unfit; the message says what to do.
        """
        # Late, so that everything above runs without torch.
        from emotion_perception.recognizers.clip import ImageTextModel

        self._words = words = read_words(settings.words or DEFAULT_WORDS)
        self._model = matcher = ImageTextModel(settings)
        self.name = f"narracap:{matcher.name}"
        self._who = matcher.embed_texts([f"a photo of {with_article(x)}" for x in words.who])
        self._where = matcher.embed_texts([f"a photo of {with_article(x)}" for x in words.where])
        self._what = matcher.embed_texts([f"a photo of a person who {x}" for x in words.what])
        self._how = matcher.embed_texts([f"a photo of a person who {x}" for x in words.how])

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """One story a person, in their order; where and what are the same for all of them.

        Args:
            people: inside the picture.
        """
        if not people:
            return []
        from emotion_perception.recognizers.clip import crops

        words, logits = self._words, self._model.logits
        alone = crops(scene.frame, [p.box for p in people])
        points = self._model.embed_images([scene.frame.image, *alone])
        whole, own = points[:1], points[1:]
        where = words.where[logits(whole, self._where).argmax()]
        what = words.what[logits(whole, self._what).argmax()]
        return [
            narrative(words.who[who], what, where, [words.how[i] for i in select_outliers(signals)])
            for who, signals in zip(
                logits(own, self._who).argmax(axis=1),
                _softmax(logits(own, self._how)),
                strict=True,
            )
        ]

    def close(self) -> None:
        self._model.close()
        del self._who, self._where, self._what, self._how


def _softmax(logits: FloatArray) -> FloatArray:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
