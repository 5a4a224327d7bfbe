"""Serve the live page to the browser on this computer that got its address.

    http://127.0.0.1:PORT/?token=…   exchanged once for a cookie, then / is the page
    /stream                          WebSocket: pictures to the browser, requests from it

A page of another site cannot read the pictures: the cookie is HttpOnly and SameSite=Strict, the
Host header has to name this server, and the Origin of a WebSocket too. The page loads nothing from
elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from emotion_perception.evaluation.pages.templating import render
from emotion_perception.live.hub import Browser, Controls, Hub

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PAGE = Path(__file__).parent / "page"
_COOKIE = "emotion_perception"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_REFUSED = "cannot show the page: open the address that emotion-perception live printed, once\n"
_MAX_REQUEST = 4096


class LiveServer:
    """The web application of one session."""

    def __init__(self, hub: Hub, controls: Controls, hosts: tuple[str, ...] = LOOPBACK) -> None:
        """Create the application.

        Args:
            hub: passes pictures to browsers.
            controls: what a browser can ask for.
            hosts: names under which browsers may reach the server.
        """
        self._hub, self._controls = hub, controls
        self.token = secrets.token_urlsafe(32)
        """Opens the page once."""
        self._token_used = False
        self._sessions: set[str] = set()
        files = {"live.js": "text/javascript", "live.css": "text/css"}
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                *(Route(f"/{name}", self._file(name, kind)) for name, kind in files.items()),
                WebSocketRoute("/stream", self._stream),
            ],
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
            ],
        )

    async def _page(self, request: Request) -> Response:
        token = request.query_params.get("token")
        if token is not None:
            if self._token_used or not hmac.compare_digest(token.encode(), self.token.encode()):
                return PlainTextResponse(_REFUSED, 403, _HEADERS)
            self._token_used = True
            session = secrets.token_urlsafe(32)
            self._sessions.add(session)
            response = RedirectResponse("/", 303, _HEADERS)
            response.set_cookie(_COOKIE, session, httponly=True, samesite="strict")
            return response
        if not self._is_known(request):
            return PlainTextResponse(_REFUSED, 403, _HEADERS)
        page = (_PAGE / "live.html").read_text(encoding="utf-8")
        return Response(page, 200, _HEADERS, "text/html")

    def _file(self, name: str, kind: str) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            if not self._is_known(request):
                return PlainTextResponse(_REFUSED, 403, _HEADERS)
            # The style sheet contains that of all pages.
            text = render(name, _PAGE) if kind == "text/css" else (_PAGE / name).read_text("utf-8")
            return Response(text, 200, _HEADERS, kind)

        return serve

    def _is_known(self, connection: HTTPConnection) -> bool:
        cookie = connection.cookies.get(_COOKIE, "").encode()
        return any(hmac.compare_digest(cookie, known.encode()) for known in self._sessions)

    async def _stream(self, socket: WebSocket) -> None:
        origin = socket.headers.get("origin", "")
        is_own = origin.partition("://")[2] == socket.headers.get("host")
        if not (is_own and self._is_known(socket)):
            await socket.close(1008)
            return
        await socket.accept()
        browser, sender = Browser(asyncio.get_running_loop()), None
        ready = asyncio.Semaphore(1)
        self._hub.join(browser)
        try:
            sender = asyncio.create_task(_send(socket, browser, ready))
            while True:
                text = await socket.receive_text()
                if len(text) > _MAX_REQUEST:
                    break
                request = _read_request(text)
                if request.get("do") == "next":  # the last picture is drawn
                    ready.release()
                    continue
                answer = await run_in_threadpool(self._answer, request)
                await socket.send_text(json.dumps(answer))
        except (WebSocketDisconnect, RuntimeError):
            pass  # the browser has gone
        finally:
            self._hub.leave(browser)
            if sender is not None:
                sender.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await sender

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a browser asks, and return what it shows."""
        controls, action = self._controls, request.get("do")
        try:
            if action == "enable":
                controls.set_enabled(request.get("on") is True)
                return {"did": action}
            if action == "explain":
                person_id = str(request.get("person"))
                return {"did": action, "person": person_id, "text": controls.explain(person_id)}
            if action == "save":
                return {"did": action, "text": f"saved {controls.save_moment()}"}
        except (ValueError, OSError) as error:
            return {"did": action, "error": str(error)}
        return {"did": str(action)[:100], "error": "this page is of another version: load it again"}


def _read_request(text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except ValueError:
        return {}
    return request if isinstance(request, dict) else {}


async def _send(socket: WebSocket, browser: Browser, ready: asyncio.Semaphore) -> None:
    """Send the newest message each time that the browser is ready."""
    while True:
        await ready.acquire()
        await socket.send_bytes(await browser.newest())


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any that is free.

    Raises:
        ValueError: the port is in use, or the address is not one of this computer.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ValueError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another "
            "--port or --host"
        ) from error
    return listening


def serve(app: Any, listening: socket.socket) -> None:
    """Serve until the process is interrupted."""
    config = uvicorn.Config(
        app, log_level="warning", ws="wsproto", ws_max_size=_MAX_REQUEST, server_header=False
    )
    uvicorn.Server(config).run([listening])
