"""A vision-language model behind an OpenAI-compatible server: the prompts of `vlm.py`, sent away.

GPT-4 vision of the paper, or a model that vLLM, SGLang or `transformers serve` runs for a fleet.
Each question is a request. A server reports the likeliest next tokens only, so a score is read
from what it reports of them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import re
import string
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import cv2
import numpy as np

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.settings import RecognizerSettings
from emotion_perception.core.values import Assessment, FloatArray, Scene, Track
from emotion_perception.recognizers.base import assess_visible
from emotion_perception.recognizers.vlm import prompts, scoring

T = TypeVar("T")

API_KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable with the server's key; the only place it is taken from."""

TOP_LOGPROBS, FEWER_TOP_LOGPROBS = 20, 5
"""The tokens that a server is asked to report, and those where it refuses so many."""

MAX_NEW_TOKENS = 120
"""Tokens, at most, of what a model is let write: all of EMOTIC's labels, or a long sentence."""

_JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
"""Off by 16 of 255 at most and 1 to 2 on average, in a third of the bytes of a PNG. The usual
sampling of colours would smear the red box."""

_RETRY_PAUSE_S = 8.0
"""Seconds that are allowed for the pause before a request is sent again."""

_URL_PATTERN = re.compile(
    r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:(?P<port>\d{1,5}))?(/[\w.~%:+/-]*)?", re.ASCII
)
_KEY_PATTERN = re.compile(
    r"[!#-&(-\[\]-~]*"
)  # printable, and quoted as it is: `_excerpt` can find it
_SPACE_MARKERS = (
    string.whitespace + "Ġ▁"
)  # around a word; the last two are a space to some tokenizers


class RemoteRecognizer:
    """EMOTIC's labels by a model on a server; and VAD, where its probabilities are read."""

    labels = EMOTIC_LABELS
    calibration = ""

    def __init__(self, settings: RecognizerSettings) -> None:
        """Nothing is sent yet.

        Raises:
            ModelError: openai is not installed, or a setting or the key is unfit.
        """
        try:
            import openai
        except ImportError as error:
            raise ModelError(
                "the remote recognizer needs the openai library: pip install openai"
            ) from error
        if settings.scoring not in ("yes_no", "generate"):
            raise ModelError(
                f"recognizer.scoring = {settings.scoring} compares {len(self.labels)} labels, and "
                f"servers report {TOP_LOGPROBS} tokens at most: set it to yes_no or generate"
            )
        remote = settings.remote
        url = _URL_PATTERN.fullmatch(remote.url)
        if not url or int(url["port"] or 0) >= 2**16:
            raise ModelError(  # the url is not repeated: it may hold a password
                "recognizer.remote.url is not of the form http://host:port/v1, without user, "
                "password, ? and #: set it, and put a key into the environment variable "
                f"{API_KEY_VARIABLE}"
            )
        self._key = os.environ.get(API_KEY_VARIABLE, "").strip()
        if not _KEY_PATTERN.fullmatch(self._key):
            raise ModelError(f"{API_KEY_VARIABLE} holds a character that no key has: set it again")
        self.name = f"remote:{settings.model}"
        self.thresholds: FloatArray = np.full(len(self.labels), 0.5)
        self._settings = replace(settings, answer_format="turn")  # servers begin answers themselves
        self._questions = prompts.questions(self._settings)
        self._top = TOP_LOGPROBS
        self._deadline_s = remote.timeout * (remote.retries + 1) + _RETRY_PAUSE_S * remote.retries
        self._slots = asyncio.Semaphore(remote.concurrency)
        self._openai = openai
        self._client: Any = openai.AsyncOpenAI(
            base_url=remote.url,
            api_key=self._key or "none",
            timeout=remote.timeout,
            max_retries=remote.retries,
        )
        # A thread of its own, so that `assess` can be called where another loop runs (Jupyter).
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=self.name, daemon=True)
        self._thread.start()

    def warm_up(self) -> None:
        """See whether the server is there and takes the key.

        Raises:
            ModelError: it is not, or does not.
        """
        try:
            self._run(self._request(self._client.models.with_raw_response.list))
        except RecognizerError as error:
            # It need not list its models; `transformers serve` fails at it where none was fetched.
            if getattr(error, "status", None) not in (404, 405, 500, 501):
                raise ModelError(str(error)) from None

    def assess(self, scene: Scene, people: Sequence[Track]) -> list[Assessment]:
        """One answer for each person, in their order; without scores where the box is no use.

        Raises:
            RecognizerError: a request failed, or the server reports no fitting probabilities.
        """

        def judge(visible: Sequence[Track]) -> list[Assessment]:
            shown = prompts.show(scene.frame.image, [p.box for p in visible], self._settings)
            return self._judge([p.person_id for p in visible], scene.frame.stamp_ns, shown)

        return assess_visible(scene, people, judge)

    def explain(self, scene: Scene, person: Track) -> str:
        """A short reason, in the model's own words, why this person seems to feel as they do.

        Raises:
            RecognizerError: the person is outside the picture, the request failed, or the model
                says nothing.
        """
        if not person.box.clipped(scene.frame.width, scene.frame.height).area > 0:
            raise RecognizerError(f"{person.person_id} is outside the image: {person.box}")
        shown = prompts.show(scene.frame.image, [person.box], self._settings)
        words = self._run(self._write(prompts.WHY, *_pictures(shown)))
        if not words:
            raise RecognizerError(
                f"{self.name} has no words for {person.person_id}: ask again, or choose another "
                "recognizer.model"
            )
        return words

    def close(self) -> None:
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _judge(
        self, people: Sequence[str], stamp_ns: int, shown: prompts.Shown
    ) -> list[Assessment]:
        if self._settings.scoring == "generate":
            question = prompts.request(self._settings)
            texts = self._run(_gather([self._write(question, p) for p in _pictures(shown)]))
            return [
                scoring.assessment_of_words(name, stamp_ns, text)
                for name, text in zip(people, texts, strict=True)
            ]
        likings = self._run(
            _gather(
                [
                    _gather([self._likings(question, p) for question in self._questions])
                    for p in _pictures(shown)
                ]
            )
        )
        return [
            Assessment(name, stamp_ns, *scoring.read(likings_of_person, "yes_no"))
            for name, likings_of_person in zip(people, likings, strict=True)
        ]

    async def _write(self, question: str, pictures: Sequence[str]) -> str:
        """What the model writes about one person; may be empty."""
        async with self._slots:
            choice = await self._complete(question, pictures, max_tokens=MAX_NEW_TOKENS)
        message = choice["message"]
        # A model that declines may say so beside the content.
        return str(message.get("content") or message.get("refusal") or "").strip()

    async def _likings(self, question: prompts.Question, pictures: Sequence[str]) -> FloatArray:
        """How likely each answer about one person is, as logarithms."""
        how = {"max_tokens": 1, "logprobs": True}
        async with self._slots:
            top = self._top
            try:
                choice = await self._complete(question.text, pictures, **how, top_logprobs=top)
            except _StatusError as error:
                if error.status not in (400, 422) or top == FEWER_TOP_LOGPROBS:
                    raise
                choice = await self._complete(
                    question.text, pictures, **how, top_logprobs=FEWER_TOP_LOGPROBS
                )
                self._top = FEWER_TOP_LOGPROBS
        reported = _top_logprobs(choice)
        words = {word for word, _ in reported}
        if words.isdisjoint(question.answers):
            reason = (
                f"instead of {question.answers[0]}: {sorted(words)}" if words else "none at all"
            )
            raise RecognizerError(
                f"{self._url} does not report the probabilities that scores are read from "
                f"({self._excerpt(reason)}): set recognizer.scoring = generate"
            )
        # A digit that is not reported counts for nothing. Of yes and no the other one is taken to
        # be as likely as the least likely token that is: it is no likelier.
        floor = min(liking for _, liking in reported) if len(question.answers) == 2 else -np.inf
        return np.array(
            [
                max(np.logaddexp.reduce([liking for w, liking in reported if w == word]), floor)
                for word in question.answers
            ]
        )

    async def _complete(self, question: str, pictures: Sequence[str], **how: Any) -> dict[str, Any]:
        """The server's answer to the chat of `vlm.py`: the first choice, as JSON."""
        (message,) = prompts.messages(self._settings, question)
        left = iter(pictures)
        content = [
            {"type": "image_url", "image_url": {"url": next(left)}} if p["type"] == "image" else p
            for p in message["content"]
        ]
        create = self._client.chat.completions.with_raw_response.create
        text = await self._request(
            create,
            model=self._settings.model,
            messages=[{**message, "content": content}],
            temperature=0,
            **how,
        )
        try:
            choice: dict[str, Any] = json.loads(text)["choices"][0]
            choice["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RecognizerError(
                f"{self._url} answered what is no chat completion ({self._excerpt(text)}): set "
                "recognizer.remote.url to an OpenAI-compatible server, mostly with /v1 at the end"
            ) from None
        return choice

    async def _request(self, send: Callable[..., Awaitable[Any]], **body: Any) -> str:
        """What the server answers.

        The library sends again what may succeed later, after a pause that grows or that the server
        names. Its own timeout is for each next byte, the one here for everything.

        Raises:
            RecognizerError: there is no answer. The key is not in the message, and the error
                behind it, which knows the key, is not shown.
        """
        try:
            return str((await asyncio.wait_for(send(**body), self._deadline_s)).text)
        except (asyncio.TimeoutError, self._openai.APITimeoutError):
            remote = self._settings.remote
            raise RecognizerError(
                f"{self._url} did not answer in time ({remote.retries + 1} x "
                f"{remote.timeout:g} s): raise recognizer.remote.timeout or lower "
                "recognizer.remote.concurrency"
            ) from None
        except self._openai.APIStatusError as error:
            status = error.status_code
            said = self._excerpt(str(error.body or error.response.text))
            remedy = _REMEDIES.get(status, _SERVER if status >= 500 else _REQUEST)
            model = self._settings.model
            raise _StatusError(
                status, f"{self._url} answered {status} about {model} ({said}): {remedy}"
            ) from None
        except self._openai.APIConnectionError as error:
            cause = error.__cause__ or error
            reason = self._excerpt(str(cause)) or type(cause).__name__
            raise RecognizerError(
                f"{self._url} cannot be reached ({reason}): start the server, or set "
                "recognizer.remote.url"
            ) from None

    @property
    def _url(self) -> str:
        return self._settings.remote.url

    def _excerpt(self, text: str) -> str:
        """The beginning of what a server says, without the key."""
        return " ".join((text.replace(self._key, "***") if self._key else text).split())[:300]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work in the loop's thread, which ends when it is no longer waited for."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


class _StatusError(RecognizerError):
    """The server answered no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_LOCKED = f"set the environment variable {API_KEY_VARIABLE} to a key that may use this model"
_SERVER = "look into the server's log, or raise recognizer.remote.retries"
_REQUEST = (
    "check recognizer.model; for one without log-probabilities set recognizer.scoring = generate"
)
_REMEDIES = {
    401: _LOCKED,
    403: _LOCKED,
    404: "set recognizer.model to one that is there, and check recognizer.remote.url",
    429: "lower recognizer.remote.concurrency, or raise recognizer.remote.retries",
}


async def _gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in the order of the work; when one fails, the rest is given up."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _pictures(shown: prompts.Shown) -> list[list[str]]:
    """Each person's pictures, as data URLs."""
    files = [cv2.imencode(".jpg", picture[..., ::-1], _JPEG)[1] for picture in shown.pictures]
    urls = [f"data:image/jpeg;base64,{base64.b64encode(f.tobytes()).decode()}" for f in files]
    return [[urls[i] for i in seen] for seen in shown.seen]


def _top_logprobs(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """The likeliest next words, bare, with the logarithms of their probabilities."""
    try:
        entries = choice["logprobs"]["content"][0]["top_logprobs"]
        pairs = [
            (str(e["token"]).strip(_SPACE_MARKERS).lower(), float(e["logprob"])) for e in entries
        ]
    except (LookupError, TypeError, ValueError):
        return []
    return [(word, liking) for word, liking in pairs if math.isfinite(liking)]
