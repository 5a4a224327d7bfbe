"""NarraCap (Etesam et al. 2024): a narrative of each person from zero-shot choices of CLIP.

    who     the crop of the person    a photo of {a woman}
    where   the full frame            a photo of {a park}
    what    the full frame            a photo of a person who {is playing chess}
    how     the crop of the person    a photo of a person who {is rubbing the chin}

    This person is a woman who is playing chess in a park. This person is rubbing the chin.

Each choice is one softmax over a list of words. The first three take the most probable entry, the
last takes all outliers (`select_outliers`). Differences from the paper: it continues with "He" or
"She", which would use a guess twice; its word lists are longer; and CLIP crops the centre square
of its images, while here the images are not cropped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from emotion_perception.core import documents
from emotion_perception.core.errors import ModelError
from emotion_perception.core.recognizer_settings import NarracapSettings
from emotion_perception.core.values import FloatArray, Scene, Track

DEFAULT_WORDS = Path(__file__).parents[2] / "data" / "narracap"

STANDARD_DEVIATIONS = 9
"""Minimum distance of an outlier from the mean of the list, as in the paper.

Fewer than N / 82 of N probabilities can be so large: two of 200, none of 82.
"""

_AN = re.compile(
    r"(?!eu|ewe|onc?e\b|u\b|uni[cfoqtv]|us[aeu]|uten)[aeiou]|h(?:eir|onest|onou?r|our)",
    re.IGNORECASE,
)
"""Matches words that begin with a vowel sound."""


@dataclass(frozen=True, slots=True)
class Words:
    """The word lists; entries of `who` and `where` have no article."""

    who: tuple[str, ...]
    where: tuple[str, ...]
    what: tuple[str, ...]
    """Phrases in the third person: "is playing chess"."""
    how: tuple[str, ...]
    """Phrases like those of `what`."""


def read_words(folder: Path | str = DEFAULT_WORDS) -> Words:
    """Read who.txt, where.txt, what.txt and how.txt: one entry per line, # starts a comment.

    Raises:
        ModelError: A file is missing, unreadable or empty, or has an entry twice.
    """
    return Words(*(_read_list(Path(folder) / f"{field.name}.txt") for field in fields(Words)))


def _read_list(file: Path) -> tuple[str, ...]:
    try:
        lines = [line.strip() for line in documents.read_text(file).splitlines()]
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot read the words in {file}: {error}; put who.txt, where.txt, what.txt and "
            "how.txt into the folder recognizer.words, or leave it empty"
        ) from error
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise ModelError(f"cannot use {file}: it has no entries; write one entry per line")
    if duplicate := next((e for e, count in Counter(entries).items() if count > 1), ""):
        raise ModelError(f"cannot use {file}: it has {duplicate!r} more than once; keep one")
    return tuple(entries)


def with_article(noun: str) -> str:
    """Return the noun with its indefinite article: a park, an office."""
    return f"{'an' if _AN.match(noun) else 'a'} {noun}"


def narrative(who: str, what: str, where: str, how: Sequence[str]) -> str:
    """Return the narrative made of entries of `Words`."""
    sentence = f"This person is {with_article(who)} who {what} in {with_article(where)}."
    return " ".join([sentence, *(f"This person {signal}." for signal in how)])


def select_outliers(probabilities: FloatArray, by: float = STANDARD_DEVIATIONS) -> list[int]:
    """Return the indices of values above mean + `by` standard deviations, largest first.

    Args:
        probabilities: (N,) with sum 1.
        by: Number of standard deviations.
    """
    limit = probabilities.mean() + by * probabilities.std()
    order = np.argsort(-probabilities, kind="stable")
    return [int(i) for i in order if probabilities[i] > limit]


class NarraCap:
    """Narratives of people from CLIP or SigLIP."""

    def __init__(self, settings: NarracapSettings) -> None:
        """Read the words, load the model and embed the words.

        Raises:
            ModelError: The words or the model are missing or unsuitable.
        """
        # Imported here, so that everything above runs without torch.
        from emotion_perception.recognizers.clip import ImageTextModel

        self._words = words = read_words(settings.words or DEFAULT_WORDS)
        self._model = matcher = ImageTextModel(settings)
        self.name = f"narracap:{matcher.name}"
        self._who = matcher.embed_texts([f"a photo of {with_article(x)}" for x in words.who])
        self._where = matcher.embed_texts([f"a photo of {with_article(x)}" for x in words.where])
        self._what = matcher.embed_texts([f"a photo of a person who {x}" for x in words.what])
        self._how = matcher.embed_texts([f"a photo of a person who {x}" for x in words.how])

    def describe(self, scene: Scene, people: Sequence[Track]) -> list[str]:
        """Return one narrative per person, in order; all people share `where` and `what`.

        Args:
            scene: The scene of the people.
            people: People inside the image.
        """
        if not people:
            return []
        from emotion_perception.recognizers.clip import crops

        words, logits = self._words, self._model.logits
        person_crops = crops(scene.frame, [p.box for p in people])
        embeddings = self._model.embed_images([scene.frame.image, *person_crops])
        frame, people_crops = embeddings[:1], embeddings[1:]
        where = words.where[logits(frame, self._where).argmax()]
        what = words.what[logits(frame, self._what).argmax()]
        return [
            narrative(words.who[who], what, where, [words.how[i] for i in select_outliers(signals)])
            for who, signals in zip(
                logits(people_crops, self._who).argmax(axis=1),
                _softmax(logits(people_crops, self._how)),
                strict=True,
            )
        ]

    def close(self) -> None:
        """Release the memory of the model."""
        self._model.close()
        del self._who, self._where, self._what, self._how


def _softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]
