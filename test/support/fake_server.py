"""A loopback server with the protocol of OpenAI, whose replies can be faulty."""

import json
import math
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    body: object = ""
    """Bytes are sent unchanged, other values as JSON."""
    status: int = 200
    headers: dict = field(default_factory=dict)
    delay_s: float = 0.0
    """Seconds before the reply starts."""
    missing_bytes: int = 0
    """Number of announced bytes at the end that are not sent before the connection closes."""
    byte_interval_s: float = 0.0
    """Seconds between two bytes."""
    parts: object = ()
    """Sent one after the other in place of the body, of a length that is not announced."""


def text_reply(text, **message):
    """Return a reply whose message has this text."""
    return Reply({"choices": [{"message": {"role": "assistant", "content": text, **message}}]})


def logprobs_reply(tokens, delay_s=0.0, **message):
    """Return a reply with the log-probabilities of these next tokens."""
    top = [{"token": token, "logprob": x, "bytes": None} for token, x in tokens.items()]
    choice = {
        "message": {"role": "assistant", "content": next(iter(tokens)), **message},
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
    }
    return Reply({"choices": [choice]}, delay_s=delay_s)


def default_reply(question):
    """Return a reply that depends on the question, with a delay that also depends on it."""
    size = sum(map(ord, question[question.find("Answer") :]))
    delay = size * 7 % 5 / 2000
    if "digit" in question:
        return logprobs_reply(
            {str(1 + size % 9): math.log(0.75), " 9": math.log(0.25)}, delay_s=delay
        )
    yes = (1 + size % 97) / 98.5
    return logprobs_reply({"Yes": math.log(yes), " no": math.log(1 - yes)}, delay_s=delay)


class Server(ThreadingHTTPServer):
    """Send `replies` one per request, then call `respond` for each further request."""

    daemon_threads, block_on_close = True, False
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.replies = []
        self.respond = lambda body: default_reply(last_text(body))
        self.models = Reply({"object": "list", "data": []})
        self.chats = []
        """Bodies of the chat requests in order of arrival."""
        self.headers = []
        self.requests = 0
        """Number of requests of any kind."""
        self.max_concurrent = 0
        """Largest number of concurrent requests."""
        self.active = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def process_request(self, request, client_address):
        self.requests += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """Ignore clients that close the connection, which some tests cause."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self._reply(self.server.models if self.path == "/v1/models" else Reply("no", 404))

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.chats.append(body)
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.active += 1
            server.max_concurrent = max(server.max_concurrent, server.active)
            reply = server.replies.pop(0) if server.replies else None
        if self.path != "/v1/chat/completions":
            reply = Reply("no", 404)
        reply = reply or server.respond(body)
        server.closing.wait(reply.delay_s)
        with server.lock:  # before the reply, because the next request may follow it at once
            server.active -= 1
        self._reply(reply)

    def _reply(self, reply):
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        if not reply.parts:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in [data[i : i + 1] for i in range(len(data))] if reply.byte_interval_s else []:
            self.wfile.write(byte)
            if self.server.closing.wait(reply.byte_interval_s):
                break
        if not reply.byte_interval_s:
            for part in reply.parts or [data[: len(data) - reply.missing_bytes]]:
                self.wfile.write(part)
        self.close_connection = bool(reply.missing_bytes or reply.byte_interval_s or reply.parts)

    def log_message(self, format, *args):
        pass


@contextmanager
def running():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def last_text(body):
    """Return the last text of a chat."""
    return body["messages"][-1]["content"][-1]["text"]


def wait_until(condition, limit):
    """Return whether the condition becomes true within `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
