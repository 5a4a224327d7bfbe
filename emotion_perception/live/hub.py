"""Pass the newest picture of a session to each browser, and nothing older.

    session thread ──► Hub.publish ──► one slot per browser ──► event loop of the server

A browser asks for its next picture when it has drawn the last one, so a slow one neither holds up
the others nor lets pictures pile up. Without a browser no picture is encoded.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from emotion_perception.core.values import ImageArray

MAX_SIDE = 960
"""Pixels of the longer side of a picture; the page shows no more."""
_QUALITY = 80
_HEADER_BYTES = 4


class Picture(NamedTuple):
    """What a page shows at one moment."""

    image: ImageArray | None
    """(H, W, 3) RGB; None: no picture."""
    state: Mapping[str, Any]
    """Ready for JSON, see `session.view`."""


class Controls(Protocol):
    """What a browser can ask of a session. The methods are called from the server's threads."""

    def set_enabled(self, enabled: bool) -> None:
        """Look at the camera, or stop looking.

        Raises:
            ValueError: the session cannot be switched.
        """
        ...

    def explain(self, person_id: str) -> str:
        """Return a short reason, in the model's words, for the assessment of a person.

        Raises:
            ValueError: there is no such person, or the recognizer gives no reason.
        """
        ...

    def save_moment(self) -> str:
        """Write the newest picture and its estimates, and return the path.

        Raises:
            ValueError: there is no picture yet.
            OSError: the files cannot be written.
        """
        ...


class Browser:
    """One page that is open: it gets the newest message, at its own pace."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start without a message."""
        self._loop = loop
        self._arrived = asyncio.Event()
        self._message: bytes | None = None

    async def newest(self) -> bytes:
        """Wait for a message that was not returned before, and return it."""
        await self._arrived.wait()
        self._arrived.clear()
        message, self._message = self._message, None
        assert message is not None
        return message

    def offer(self, message: bytes) -> None:
        """Replace the message that waits; called from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, message)

    def _set(self, message: bytes) -> None:
        self._message = message
        self._arrived.set()


class Hub:
    """The browsers of a session."""

    def __init__(self) -> None:
        """Start without browsers."""
        self._browsers: set[Browser] = set()
        self._lock = threading.Lock()
        self._newest: Callable[[], Picture] | None = None

    @property
    def browsers(self) -> int:
        """The number of pages that are open."""
        return len(self._browsers)

    def join(self, browser: Browser) -> None:
        """Add a browser; it gets the newest message at once."""
        with self._lock:
            self._browsers.add(browser)
            newest = self._newest
        if newest is not None:
            browser.offer(encode(newest()))

    def leave(self, browser: Browser) -> None:
        """Remove a browser."""
        with self._lock:
            self._browsers.discard(browser)

    def publish(self, picture: Callable[[], Picture]) -> None:
        """Offer a picture to all browsers.

        Args:
            picture: returns it; called only if a browser is open, or when one opens.
        """
        with self._lock:
            self._newest = picture
            browsers = list(self._browsers)
        if browsers:
            message = encode(picture())
            for browser in browsers:
                browser.offer(message)


def encode(picture: Picture) -> bytes:
    """Return the bytes of a message: the length of the state, the state as JSON, a JPEG image."""
    text = json.dumps(picture.state, separators=(",", ":"), allow_nan=False).encode()
    image = b"" if picture.image is None else jpeg(picture.image)
    return len(text).to_bytes(_HEADER_BYTES, "big") + text + image


def jpeg(image: ImageArray, max_side: int = MAX_SIDE) -> bytes:
    """Return an RGB image as JPEG, shrunk to a longer side of at most `max_side` pixels."""
    scale = max_side / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    bgr = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()
