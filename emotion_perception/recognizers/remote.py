"""A vision-language model on an OpenAI-compatible server, asked with the prompts of `vlm`.

The server runs, for example, GPT-4 vision, or a model under vLLM, SGLang or `transformers serve`.
Each question is one request. A server reports only the most probable next tokens, so scores are
computed from these.
"""

from __future__ import annotations

import base64
import logging
import math
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS, VAD, without_thoughts
from emotion_perception.core.logits import probability
from emotion_perception.core.recognizer_settings import RemoteSettings
from emotion_perception.core.values import Assessment, Box, FloatArray, Scene, Track, Vad
from emotion_perception.recognizers.base import assess_visible
from emotion_perception.recognizers.openai_client import OpenAiClient, StatusError, gather
from emotion_perception.recognizers.vlm import prompts, scoring

log = logging.getLogger(__name__)

TOP_LOGPROBS, FEWER_TOP_LOGPROBS = 20, 5
"""Number of tokens that a server is asked to report, and the number if it refuses the first."""

MAX_NEW_TOKENS = 120
"""Limit of a generated text: all labels of EMOTIC, or a long sentence."""

_JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
"""Errors of at most 16 of 255, 1 to 2 on average, with a third of the bytes of a PNG. The usual
chroma subsampling would blur the red box."""

_SPACE_MARKERS = string.whitespace + "Ġ▁"  # the last two mark a space in some tokenizers

_THINKING_REMEDY = "turn thinking off on the server, or choose another recognizer.model"


class RemoteRecognizer:
    """Scores of the EMOTIC labels from a model on a server; with `yes_no` scoring also VAD."""

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: RemoteSettings) -> None:
        """Check the settings; nothing is sent yet.

        Raises:
            ModelError: openai is not installed, or a setting or the key is invalid.
        """
        if settings.scoring not in ("yes_no", "generate"):
            raise ModelError(
                f"recognizer.scoring = {settings.scoring} compares {len(self.labels)} labels, and "
                f"servers report at most {TOP_LOGPROBS} tokens: set it to yes_no or generate"
            )
        self.name = f"remote:{settings.model}"
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._settings = settings
        self._questions = prompts.questions(self._settings)
        self._top_logprobs = TOP_LOGPROBS
        self._client = OpenAiClient(settings)

    def warm_up(self) -> None:
        """Check that the server is reachable and takes the key.

        Raises:
            ModelError: It is not reachable or refuses the key.
        """
        try:
            self._client.run(self._client.list_models())
        except RecognizerError as error:
            # Servers need not list models; `transformers serve` fails if none was fetched.
            if getattr(error, "status", None) not in (404, 405, 500, 501):
                raise ModelError(str(error)) from None

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """Return one assessment per person, in order; people outside the image get a reason.

        Raises:
            RecognizerError: A request failed, or the server does not report the probabilities.
        """

        def assess_batch(visible: Sequence[Track]) -> list[Assessment]:
            images = self._images(scene, [p.box for p in visible])
            ids = [p.person_id for p in visible]
            return self._assess(ids, scene.frame.stamp_ns, images)

        return assess_visible(scene, people, assess_batch)

    def explain(self, scene: Scene, person: Track) -> str:
        """Return a short reason, in the words of the model, for the apparent feelings of a person.

        Raises:
            RecognizerError: The person is outside the image, the request failed, or the model
                wrote nothing.
        """
        if not person.box.clipped(scene.frame.width, scene.frame.height).area > 0:
            raise RecognizerError(f"{person.person_id} is outside the image: {person.box}")
        (images,) = self._images(scene, [person.box])
        message = self._client.run(self._write(prompts.RATIONALE_QUESTION, images))
        if not (text := without_thoughts(_text(message))):
            raise RecognizerError(
                f"{self.name} wrote no reason for {person.person_id}: ask again, or choose "
                "another recognizer.model"
            )
        return text

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _images(self, scene: Scene, boxes: Sequence[Box]) -> list[list[str]]:
        """Return the images of the prompt about each person as data URLs.

        A scene image is never enlarged: the server scales it to what its model sees.
        """
        size = min(self._settings.scene_size, max(scene.frame.width, scene.frame.height))
        settings = replace(self._settings, scene_size=size)
        return _data_urls(prompts.make_prompt_images(scene.frame.image, boxes, settings))

    def _assess(
        self, person_ids: Sequence[str], stamp_ns: int, images: Sequence[Sequence[str]]
    ) -> list[Assessment]:
        if self._settings.scoring == "generate":
            question = prompts.generation_prompt(self._settings)
            messages = self._client.run(gather([self._write(question, urls) for urls in images]))
            return [
                _assessment(person_id, stamp_ns, message)
                for person_id, message in zip(person_ids, messages, strict=True)
            ]
        answers = self._client.run(gather([self._scores_and_vad(urls) for urls in images]))
        return [
            Assessment(person_id, stamp_ns, scores, vad)
            for person_id, (scores, vad) in zip(person_ids, answers, strict=True)
        ]

    async def _write(self, question: str, images: Sequence[str]) -> dict[str, Any]:
        """Return the message that the model writes about one person."""
        async with self._client.slots:
            choice = await self._ask(question, images, max_tokens=MAX_NEW_TOKENS)
        message: dict[str, Any] = choice["message"]
        return message

    async def _scores_and_vad(self, images: Sequence[str]) -> tuple[FloatArray, Vad | None]:
        """Return the scores and the VAD of one person; no VAD if a dimension is not answered."""
        labels, dimensions = self._questions[: -len(VAD)], self._questions[-len(VAD) :]
        logprobs = await gather(
            [
                *(self._answer_logprobs(question, images) for question in labels),
                *(self._logprobs_or_error(question, images) for question in dimensions),
            ]
        )
        errors = [answer for answer in logprobs if isinstance(answer, RecognizerError)]
        answers = [answer for answer in logprobs if not isinstance(answer, RecognizerError)]
        scores = probability(scoring.LABEL_LOG_ODDS["yes_no"](answers[: len(labels)]))
        if errors:
            log.warning("a person has scores but no VAD: %s", errors[0])
            return scores, None
        return scores, Vad(*map(scoring.expected_value, answers[len(labels) :]))

    async def _logprobs_or_error(
        self, question: prompts.Question, images: Sequence[str]
    ) -> FloatArray | RecognizerError:
        """Return what `_answer_logprobs` returns, or the error that it raises."""
        try:
            return await self._answer_logprobs(question, images)
        except RecognizerError as error:
            return error

    async def _answer_logprobs(
        self, question: prompts.Question, images: Sequence[str]
    ) -> FloatArray:
        """Return the log-probability of each answer to a question about one person.

        Raises:
            RecognizerError: The request failed, the server does not report the probabilities of the
                answers, or the model thinks first.
        """
        options = {"max_tokens": 1, "logprobs": True}
        async with self._client.slots:
            number = self._top_logprobs
            try:
                choice = await self._ask(question.text, images, **options, top_logprobs=number)
            except StatusError as error:
                if error.status not in (400, 422) or number == FEWER_TOP_LOGPROBS:
                    raise
                number = FEWER_TOP_LOGPROBS
                choice = await self._ask(question.text, images, **options, top_logprobs=number)
                self._top_logprobs = number
        reported = _top_logprobs(choice)
        words = {word for word, _ in reported}
        if words.isdisjoint(question.answers):
            reason = (
                f"instead of {question.answers[0]}: {sorted(words)}" if words else "none at all"
            )
            raise RecognizerError(
                f"{self._client.url} does not report the probabilities of the answers "
                f"({self._client.excerpt(reason)}): set recognizer.scoring = generate"
            )
        likeliest = max(reported, key=lambda pair: pair[1])[0]
        if _thoughts(choice["message"]) or (likeliest and not without_thoughts(likeliest)):
            raise RecognizerError(
                f"cannot score the answers of {self.name}: the model thinks before it answers; "
                f"{_THINKING_REMEDY}"
            )
        # A digit that is not reported counts as impossible. A missing yes or no counts as probable
        # as the least probable reported token, which is its upper bound.
        floor = min(logprob for _, logprob in reported) if len(question.answers) == 2 else -np.inf
        return np.array(
            [
                max(np.logaddexp.reduce([x for word, x in reported if word == answer]), floor)
                for answer in question.answers
            ]
        )

    async def _ask(self, question: str, images: Sequence[str], **options: Any) -> dict[str, Any]:
        """Return the first choice of the reply to the chat of `vlm`, as JSON."""
        (message,) = prompts.messages(self._settings, question)
        urls = iter(images)
        content = [
            {"type": "image_url", "image_url": {"url": next(urls)}} if p["type"] == "image" else p
            for p in message["content"]
        ]
        return await self._client.complete([{**message, "content": content}], **options)


def _data_urls(images: prompts.PromptImages) -> list[list[str]]:
    """Return the images of each person as data URLs."""
    files = [cv2.imencode(".jpg", image[..., ::-1], _JPEG)[1] for image in images.images]
    urls = [f"data:image/jpeg;base64,{base64.b64encode(f.tobytes()).decode()}" for f in files]
    return [[urls[i] for i in indices] for indices in images.person_images]


def _text(message: dict[str, Any]) -> str:
    """Return the text of a message; it may be empty. Thoughts in fields of their own are left out.

    The text of a refusal may stand in a field of its own, and a text in parts of several types.
    """
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        content = "\n".join(str(part.get("text")) for part in parts if part.get("type") == "text")
    return str(content or message.get("refusal") or "").strip()


def _thoughts(message: dict[str, Any]) -> bool:
    """Return whether a server reports thoughts in a field of their own."""
    return any(message.get(name) for name in ("reasoning_content", "reasoning"))


def _assessment(person_id: str, stamp_ns: int, message: dict[str, Any]) -> Assessment:
    """Return the assessment of a generated message."""
    text = _text(message)
    if not without_thoughts(text) and (text or _thoughts(message)):
        reason = f"the model only thought, in {MAX_NEW_TOKENS} tokens; {_THINKING_REMEDY}"
        return Assessment(person_id, stamp_ns, None, rationale=text, reason=reason)
    return scoring.assessment_from_text(person_id, stamp_ns, text)


def _top_logprobs(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the most probable next words, stripped, with their log-probabilities."""
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [
            (str(entry["token"]).strip(_SPACE_MARKERS).lower(), float(entry["logprob"]))
            for entry in entries
        ]
    except (LookupError, TypeError, ValueError):
        return []
    return [(word, logprob) for word, logprob in pairs if math.isfinite(logprob)]
