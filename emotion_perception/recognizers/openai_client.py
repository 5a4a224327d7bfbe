"""Send chats to an OpenAI-compatible server, with retries, deadlines and limited concurrency."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.recognizer_settings import (
    RemoteSettings,
    ServerAddress,
    ServerSettings,
)
from emotion_perception.core.text import printable

T = TypeVar("T")

API_KEY_VARIABLE = "OPENAI_API_KEY"
"""The environment variable with the key of the server; the key is read from nowhere else."""

MAX_REPLY_BYTES = 4_000_000
"""A reply to one question has some kilobytes, a long list of models less than a megabyte."""

_TOO_LARGE = (
    f"replies with more than {MAX_REPLY_BYTES // 1_000_000} MB: set recognizer.remote.url to an "
    "OpenAI-compatible server"
)

_RETRY_PAUSE_S = 8.0
"""Allowance of the deadline for the pause before each retry."""

# Printable characters that are quoted unchanged, so that `_excerpt` finds the key in a text.
_KEY_PATTERN = re.compile(r"[!#-&(-\[\]-~]*")

_KEY_REMEDY = f"set the environment variable {API_KEY_VARIABLE} to a key that may use this model"
_SERVER_REMEDY = "read the server's log, or raise recognizer.remote.retries"
_REQUEST_REMEDY = (
    "check recognizer.model; for one without log-probabilities set recognizer.scoring = generate"
)
_REMEDIES = {
    401: _KEY_REMEDY,
    403: _KEY_REMEDY,
    404: "set recognizer.model to a model of the server, and check recognizer.remote.url",
    429: "lower recognizer.remote.concurrency, or raise recognizer.remote.retries",
}


class StatusError(RecognizerError):
    """The server answered with an HTTP error.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        """Keep the status beside the message."""
        super().__init__(message)
        self.status = status


class OpenAiClient:
    """A connection to one server, with an event loop in a thread of its own.

    The thread lets synchronous code use the client even where another loop runs (Jupyter).
    """

    def __init__(self, settings: RemoteSettings) -> None:
        """Check the settings and start the thread; nothing is sent yet.

        Raises:
            ModelError: openai is not installed, or a setting or the key is invalid.
        """
        try:
            import openai
        except ImportError as error:
            raise ModelError(
                "the remote recognizer needs the openai library: pip install openai"
            ) from error
        remote = settings.remote
        try:
            ServerAddress.of(remote.url)
        except ValueError as error:
            raise ModelError(
                f"recognizer.remote.url {error}: set it, and put a key into the environment "
                f"variable {API_KEY_VARIABLE}"
            ) from None
        self._key = os.environ.get(API_KEY_VARIABLE, "").strip()
        if not _KEY_PATTERN.fullmatch(self._key):
            raise ModelError(
                f"{API_KEY_VARIABLE} contains a character that a key cannot have: set it again"
            )
        self.url = remote.url
        self._model = settings.model
        self._remote = remote
        self._deadline_s = remote.timeout * (remote.retries + 1) + _RETRY_PAUSE_S * remote.retries
        self._slots = asyncio.Semaphore(remote.concurrency)
        self._openai = openai
        self._client: Any = openai.AsyncOpenAI(
            base_url=remote.url,
            api_key=self._key or "none",
            timeout=remote.timeout,
            max_retries=remote.retries,
            http_client=_http_client(openai, remote),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name=f"remote:{settings.model}", daemon=True
        )
        self._thread.start()

    @property
    def slots(self) -> asyncio.Semaphore:
        """The semaphore that limits the concurrent requests; hold it around `complete`."""
        return self._slots

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine; cancel it if the caller stops waiting."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    async def list_models(self) -> None:
        """Request the list of models, to see whether the server is reachable and takes the key.

        Raises:
            RecognizerError: The request failed.
        """
        await self._request(self._client.models.with_raw_response.list)

    async def complete(self, messages: Sequence[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """Return the first choice of the reply to a chat, as JSON.

        Raises:
            RecognizerError: The request failed, or the reply is not a chat completion.
        """
        text = await self._request(
            self._client.chat.completions.with_raw_response.create,
            model=self._model,
            messages=messages,
            temperature=0,
            **options,
        )
        try:
            choice: dict[str, Any] = json.loads(text)["choices"][0]
            choice["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise RecognizerError(
                f"the reply of {self.url} is not a chat completion ({self.excerpt(text)}): set "
                "recognizer.remote.url to an OpenAI-compatible server, usually with /v1 at the end"
            ) from None
        if self._key:  # a server may repeat it, also with escaped characters
            choice = json.loads(json.dumps(choice).replace(self._key, "***"))
        return choice

    def excerpt(self, text: str) -> str:
        """Return the beginning of a reply on one line, without the key."""
        text = text.replace(self._key, "***") if self._key else text
        return printable(" ".join(text.split()), 300)

    def close(self) -> None:
        """Close the connections and end the thread."""
        self.run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _request(self, send: Callable[..., Awaitable[Any]], **body: Any) -> str:
        """Return the body of the reply.

        The library retries requests that may succeed later, after a pause that grows or that the
        server names. Its timeout applies to each next byte, the deadline here to the whole.

        Raises:
            RecognizerError: There is no reply. The message does not contain the key, and the
                original error, which contains it, is not chained.
        """
        try:
            return str((await asyncio.wait_for(send(**body), self._deadline_s)).text)
        except (asyncio.TimeoutError, self._openai.APITimeoutError):
            raise RecognizerError(
                f"{self.url} did not answer in time ({self._remote.retries + 1} x "
                f"{self._remote.timeout:g} s): raise recognizer.remote.timeout or lower "
                "recognizer.remote.concurrency"
            ) from None
        except RecognizerError as error:  # of `_http_client`
            raise RecognizerError(f"{self.url} {error}") from None
        except self._openai.APIStatusError as error:
            status = error.status_code
            if location := error.response.headers.get("location"):
                raise StatusError(
                    status,
                    f"{self.url} redirects to {self.excerpt(location)}, which is not followed: "
                    "images go only to the server that is named; set recognizer.remote.url to the "
                    "server that answers",
                ) from None
            reason = self.excerpt(str(error.body or error.response.text))
            remedy = _REMEDIES.get(status, _SERVER_REMEDY if status >= 500 else _REQUEST_REMEDY)
            raise StatusError(
                status, f"{self.url} answered {status} about {self._model} ({reason}): {remedy}"
            ) from None
        except self._openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, RecognizerError):  # of `_http_client`
                raise RecognizerError(f"{self.url} {cause}") from None
            reason = self.excerpt(str(cause)) or type(cause).__name__
            raise RecognizerError(
                f"{self.url} cannot be reached ({reason}): start the server, or set "
                "recognizer.remote.url"
            ) from None


def _http_client(openai: Any, remote: ServerSettings) -> Any:
    """Return a client that sends to the named server only, and reads at most `MAX_REPLY_BYTES`.

    It follows no redirect. It uses no proxy of the environment, which would see the images without
    being named in the settings; certificates of the environment (`SSL_CERT_FILE`) stay in use.
    """
    # openai is built on httpx, newer versions on httpx2.
    http: Any = importlib.import_module(openai.DefaultAsyncHttpxClient.__mro__[1].__module__)

    class Bounded(http.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            count = 0
            async for chunk in self._stream:
                count += len(chunk)
                if count > MAX_REPLY_BYTES:
                    raise RecognizerError(_TOO_LARGE)
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Direct(http.AsyncHTTPTransport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            response.stream = Bounded(response.stream)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise RecognizerError(
                    "compresses its replies, although that is not asked for: turn it off there"
                )
            return response

    limits = http.Limits(
        max_connections=remote.concurrency, max_keepalive_connections=remote.concurrency
    )
    return openai.DefaultAsyncHttpxClient(
        transport=Direct(limits=limits),
        follow_redirects=False,
        trust_env=False,
        headers={"Accept-Encoding": "identity"},
    )


async def gather(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in the order of the coroutines; if one fails, cancel the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
