"""Where in a model's output the answers are found, and what scores follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emotion_perception.core.errors import ModelError
from emotion_perception.core.labels import EMOTIC_LABELS, VAD, named_in
from emotion_perception.core.logits import probability
from emotion_perception.core.values import Assessment, FloatArray, Vad
from emotion_perception.recognizers.vlm import prompts

if TYPE_CHECKING:
    import torch


class Answers:
    """Where in the model's output the answers to a set of questions are found.

    An answer is one token, spelled in several ways, at the end of its question; or, where the
    question is to be answered in words, the tokens of the words, each at the end of those before.
    """

    def __init__(
        self, tokenizer: Any, questions: Sequence[prompts.Question], texts: Sequence[str]
    ) -> None:
        """
        Args:
            texts: each question within its chat, up to where the answer would begin.

        Raises:
            ModelError: the tokenizer has no single token for an answer.
        """
        self.sites: list[tuple[int, tuple[int, ...]]] = [(i, ()) for i in range(len(questions))]
        """The places that are read: the number of a question, and the tokens that follow it."""
        self.ids: list[int] = []
        """The tokens that are read there."""
        self.in_words = any(question.in_words for question in questions)
        self._terms = [
            [
                self._locate(tokenizer, i, question.in_words, texts[i], word)
                for word in question.answers
            ]
            for i, question in enumerate(questions)
        ]

    def likings(self, logits: FloatArray) -> list[FloatArray]:
        """For each question the log-likelihoods of its answers, up to a common constant.

        Spellings of a word count together; of several tokens the mean counts, since otherwise
        a long answer would look unlikely for being long.

        Args:
            logits: (sites, tokens), with the logarithm of the sum over all tokens as a last
                column where there are answers in words.
        """
        return [
            np.array(
                [np.mean([self._term(logits, *term) for term in answer]) for answer in answers]
            )
            for answers in self._terms
        ]

    def likings_with_gradients(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """As `likings`, for many people and with gradients; not for answers in words.

        Args:
            logits: (people, sites, tokens).

        Returns:
            For each question (people, answers).
        """
        import torch  # here, since a server's answers are read without it

        return [
            torch.stack(
                [logits[:, site][:, columns].logsumexp(-1) for ((site, columns),) in found], 1
            )
            for found in self._terms
        ]

    def _term(self, logits: FloatArray, site: int, columns: list[int]) -> float:
        total = logits[site, len(self.ids)] if self.in_words else 0.0
        return float(np.logaddexp.reduce(logits[site, columns].astype(np.float64)) - total)

    def _locate(
        self, tokenizer: Any, question: int, in_words: bool, text: str, word: str
    ) -> list[tuple[int, list[int]]]:
        if in_words:
            tokens = _continuation(tokenizer, text, word)
            return [
                (_place(self.sites, (question, tokens[:k])), [_place(self.ids, token)])
                for k, token in enumerate(tokens)
            ]
        found = _single_tokens(tokenizer, word)
        if not found:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no single token for {word!r}, "
                "so that answers cannot be scored: choose another model"
            )
        return [(question, [_place(self.ids, token) for token in found])]


def _place(items: list[Any], item: Any) -> int:
    """Where it stands in the list; it is put there first if it is new."""
    if item not in items:
        items.append(item)
    return items.index(item)


def _single_tokens(tokenizer: Any, word: str) -> list[int]:
    """Every token that is this word, with or without a capital and a space before it."""
    vocabulary = tokenizer.get_vocab()
    spellings = dict.fromkeys((word, word.capitalize(), word.upper()))
    # How a space is written: byte-level BPE, SentencePiece, and neither.
    return [
        vocabulary[space + spelling]
        for spelling in spellings
        for space in ("", "Ġ", "▁")
        if space + spelling in vocabulary
    ]


def continued(text: str, words: str) -> str:
    """The text with these words after it, apart from it."""
    gap = "" if not words or text[-1:].isspace() else " "
    return text + gap + words


def _continuation(tokenizer: Any, text: str, word: str) -> tuple[int, ...]:
    """The tokens of a word that follows the text."""
    before, after = (
        tokenizer(x, add_special_tokens=False)["input_ids"] for x in (text, continued(text, word))
    )
    if after[: len(before)] != before:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} does not keep {word!r} apart from the "
            "question: set recognizer.scoring to yes_no"
        )
    return tuple(after[len(before) :])


def _against_no(likings: Sequence[FloatArray]) -> FloatArray:
    """(labels,) log-odds of yes against no."""
    return np.array([yes - no for yes, no in likings])


def _against_the_others(likings: Sequence[FloatArray]) -> FloatArray:
    """(labels,) log-odds against the average of the other labels."""
    (likings_of_labels,) = likings
    others = len(likings_of_labels) - 1
    return np.array(
        [
            liking - np.logaddexp.reduce(np.delete(likings_of_labels, i)) + np.log(others)
            for i, liking in enumerate(likings_of_labels)
        ]
    )


SCORING: dict[str, Callable[[Sequence[FloatArray]], FloatArray]] = {
    "yes_no": _against_no,
    "letters": _against_the_others,
    "labels": _against_the_others,
}
"""How the log-odds of the labels follow from the answers to `prompts.label_questions`."""


def expectation(likings: FloatArray) -> float:
    """Of a number between -1 and 1, from the likings of equally spaced answers, low to high."""
    weights = np.exp(likings.astype(np.float64) - likings.max())
    return float(weights @ np.linspace(-1, 1, len(weights)) / weights.sum())


def read(likings: Sequence[FloatArray], how: str) -> tuple[FloatArray, Vad]:
    """From the answers to `prompts.questions` to the labels' probabilities, and the numbers.

    Args:
        how: `recognizer.scoring`.
    """
    labels, numbers = likings[: -len(VAD)], likings[-len(VAD) :]
    return probability(SCORING[how](labels)), Vad(*map(expectation, numbers))


def assessment_of_words(person_id: str, stamp_ns: int, words: str) -> Assessment:
    """An answer that was written down: 1 for each label that it names, else 0."""
    named = named_in(words)
    if not named:
        return Assessment(
            person_id, stamp_ns, None, rationale=words, reason="the model named no label"
        )
    scores = np.array([float(label in named) for label in EMOTIC_LABELS])
    return Assessment(person_id, stamp_ns, scores, rationale=words)
