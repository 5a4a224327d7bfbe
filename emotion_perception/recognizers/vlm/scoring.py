"""Locate the answers in a model's output, and turn their log-probabilities into scores."""

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


class AnswerTokens:
    """The places and tokens of the answers to a set of questions.

    An answer is one token with several spellings at the end of its question. For a question that is
    answered in words, it is the tokens of the words, each after those before.
    """

    def __init__(
        self, tokenizer: Any, questions: Sequence[prompts.Question], texts: Sequence[str]
    ) -> None:
        """Find the tokens.

        Args:
            tokenizer: of the model.
            questions: with their answers.
            texts: each question within its chat, up to where the answer begins.

        Raises:
            ModelError: the tokenizer has no single token for an answer.
        """
        self.sites: list[tuple[int, tuple[int, ...]]] = [(i, ()) for i in range(len(questions))]
        """The places that are read: the index of a question, and the tokens that follow it."""
        self.ids: list[int] = []
        """The tokens whose logits are read there."""
        self.in_words = any(question.in_words for question in questions)
        self.terms = [
            [
                self._locate(tokenizer, i, question.in_words, texts[i], word)
                for word in question.answers
            ]
            for i, question in enumerate(questions)
        ]
        """Per question and answer: the places and indices into `ids` of its tokens in order."""

    def answer_logprobs(self, logits: FloatArray) -> list[FloatArray]:
        """Return the answer log-probabilities of each question, up to a common constant.

        Spellings of a word are summed. For an answer of several tokens the mean is taken, since
        otherwise a long answer would be improbable only because it is long.

        Args:
            logits: (sites, tokens), with the log-sum-exp over all tokens as a last column if there
                are answers in words.
        """
        return [
            np.array(
                [np.mean([self._term(logits, *term) for term in answer]) for answer in answers]
            )
            for answers in self.terms
        ]

    def answer_logprobs_with_gradients(self, logits: torch.Tensor) -> list[torch.Tensor]:
        """Return the answer log-probabilities of many people, with gradients; not for words.

        Args:
            logits: (people, sites, tokens).

        Returns:
            For each question (people, answers).
        """
        import torch  # imported here: the remote recognizer works without it

        return [
            torch.stack(
                [logits[:, site][:, columns].logsumexp(-1) for ((site, columns),) in terms], 1
            )
            for terms in self.terms
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
                (_index(self.sites, (question, tokens[:k])), [_index(self.ids, token)])
                for k, token in enumerate(tokens)
            ]
        spellings = _single_tokens(tokenizer, word)
        if not spellings:
            raise ModelError(
                f"cannot score answers with the tokenizer of {tokenizer.name_or_path}: it has no "
                f"single token for {word!r}; choose another model"
            )
        return [(question, [_index(self.ids, token) for token in spellings])]


def _index(items: list[Any], item: Any) -> int:
    """Return the index of the item, which is appended if it is new."""
    if item not in items:
        items.append(item)
    return items.index(item)


def _single_tokens(tokenizer: Any, word: str) -> list[int]:
    """Return each token that is this word, with or without a capital and a leading space."""
    vocabulary = tokenizer.get_vocab()
    spellings = dict.fromkeys((word, word.capitalize(), word.upper()))
    # The notation of a space: none, byte-level BPE, SentencePiece.
    return [
        vocabulary[space + spelling]
        for spelling in spellings
        for space in ("", "Ġ", "▁")
        if space + spelling in vocabulary
    ]


def with_continuation(text: str, words: str) -> str:
    """Append words to a text, separated by white space."""
    gap = "" if not words or text[-1:].isspace() else " "
    return text + gap + words


def _continuation(tokenizer: Any, text: str, word: str) -> tuple[int, ...]:
    """Return the tokens of a word that follows the text."""
    before, after = (
        tokenizer(x, add_special_tokens=False)["input_ids"]
        for x in (text, with_continuation(text, word))
    )
    if after[: len(before)] != before:
        raise ModelError(
            f"cannot use recognizer.scoring = labels: the tokenizer of {tokenizer.name_or_path} "
            f"merges {word!r} with the question; set recognizer.scoring to yes_no"
        )
    return tuple(after[len(before) :])


def _against_no(logprobs: Sequence[FloatArray]) -> FloatArray:
    """Return the log-odds of yes against no, (labels,)."""
    return np.array([yes - no for yes, no in logprobs])


def _against_the_others(logprobs: Sequence[FloatArray]) -> FloatArray:
    """Return the log-odds of each label against the average of the others, (labels,)."""
    (label_logprobs,) = logprobs
    others = len(label_logprobs) - 1
    return np.array(
        [
            logprob - np.logaddexp.reduce(np.delete(label_logprobs, i)) + np.log(others)
            for i, logprob in enumerate(label_logprobs)
        ]
    )


LABEL_LOG_ODDS: dict[str, Callable[[Sequence[FloatArray]], FloatArray]] = {
    "yes_no": _against_no,
    "letters": _against_the_others,
    "labels": _against_the_others,
}
"""`recognizer.scoring` to the function from answer log-probabilities to log-odds of labels."""


def expected_value(logprobs: FloatArray) -> float:
    """Return the expected value, -1..1, of equally spaced answers from low to high."""
    weights = np.exp(logprobs.astype(np.float64) - logprobs.max())
    return float(weights @ np.linspace(-1, 1, len(weights)) / weights.sum())


def not_finite(dtype: str) -> str:
    """Return the reason of an assessment whose logits overflow in a dtype, with the remedy."""
    return f"the answers are not finite in {dtype}: set recognizer.dtype to bfloat16 or float32"


def scores_and_vad(logprobs: Sequence[FloatArray], scoring: str) -> tuple[FloatArray, Vad]:
    """Return the scores of the labels and the VAD from the answers to `prompts.questions`.

    Args:
        logprobs: answer log-probabilities per question.
        scoring: `recognizer.scoring`.
    """
    labels, dimensions = logprobs[: -len(VAD)], logprobs[-len(VAD) :]
    return probability(LABEL_LOG_ODDS[scoring](labels)), Vad(*map(expected_value, dimensions))


def assessment_from_text(person_id: str, stamp_ns: int, text: str) -> Assessment:
    """Return the assessment of a generated text: 1 for each label that it names, else 0."""
    named = named_in(text)
    if not named:
        return Assessment(
            person_id, stamp_ns, None, rationale=text, reason="the model named no label"
        )
    scores = np.array([float(label in named) for label in EMOTIC_LABELS])
    return Assessment(person_id, stamp_ns, scores, rationale=text)
