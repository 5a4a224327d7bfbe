"""Only a browser on this computer that got the address sees the page."""

import json

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
testclient = pytest.importorskip("starlette.testclient")
from starlette.websockets import WebSocketDisconnect

from emotion_perception.live.hub import Hub, Picture
from emotion_perception.live.server import LiveServer, bind

OWN = {"origin": "http://testserver"}


class Controls:
    """Records what a browser asks for."""

    def __init__(self):
        self.asked = []

    def set_enabled(self, enabled):
        self.asked.append(enabled)

    def explain(self, person_id):
        if person_id != "p00000":
            raise ValueError(f"cannot explain {person_id}: this person is not in view")
        return "a smile"

    def save_moment(self):
        raise OSError("the disk is full")


@pytest.fixture
def hub():
    return Hub()


@pytest.fixture
def controls():
    return Controls()


@pytest.fixture
def server(hub, controls):
    return LiveServer(hub, controls, ("testserver",))


@pytest.fixture
def client(server):
    return testclient.TestClient(server.app)


@pytest.fixture
def admitted(client, server):
    assert client.get(f"/?token={server.token}").status_code == 200
    return client


def test_token_opens_the_page_once(client, server):
    response = client.get(f"/?token={server.token}", follow_redirects=False)
    assert response.status_code == 303
    assert response.headers["location"] == "/"
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "What the robot sees" in client.get("/").text
    stranger = testclient.TestClient(server.app)
    for path in (
        f"/?token={server.token}",
        "/?token=guess",
        "/?token=",
        "/",
        "/live.js",
        "/live.css",
    ):
        refused = stranger.get(path)
        assert refused.status_code == 403, path
        assert "open the address" in refused.text


def test_page_loads_its_own_files_only(admitted):
    page = admitted.get("/")
    assert page.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http:" not in page.text
    assert "https:" not in page.text
    for name in ("live.js", "live.css"):
        assert name in page.text
        assert admitted.get(f"/{name}").status_code == 200
    assert "http" not in admitted.get("/live.css").text
    assert "{%" not in admitted.get("/live.css").text


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", ""])
def test_other_host_names_are_refused(admitted, host):
    assert admitted.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "testserver"}]
)
def test_stream_is_refused_to_other_origins(admitted, headers):
    with pytest.raises(WebSocketDisconnect), admitted.websocket_connect("/stream", headers=headers):
        pass


def test_stream_is_refused_without_the_cookie(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/stream", headers=OWN):
        pass


def test_browser_gets_the_next_picture_when_it_has_drawn_the_last(admitted, hub):
    hub.publish(lambda: Picture(None, {"number": 0}))
    with admitted.websocket_connect("/stream", headers=OWN) as stream:
        assert b'"number":0' in stream.receive_bytes()
        for number in (1, 2, 3):
            hub.publish(lambda number=number: Picture(None, {"number": number}))
        stream.send_text('{"do": "next"}')
        assert b'"number":3' in stream.receive_bytes()
    assert hub.browsers == 0


def test_requests_reach_the_session_and_errors_the_browser(admitted, controls):
    def ask(**request):
        stream.send_text(json.dumps(request))
        return stream.receive_json()

    with admitted.websocket_connect("/stream", headers=OWN) as stream:
        assert ask(do="enable", on=False) == {"did": "enable"}
        assert controls.asked == [False]
        assert ask(do="explain", person="p00000")["text"] == "a smile"
        assert "not in view" in ask(do="explain", person="p1")["error"]
        assert ask(do="save")["error"] == "the disk is full"
        assert "another version" in ask(do="dance")["error"]
        for wrong in ("no JSON", "[1]", "{}"):
            stream.send_text(wrong)
            assert "error" in stream.receive_json()


def test_port_in_use_is_an_error():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port}.*choose another --port"):
            bind("127.0.0.1", port)
    with pytest.raises(ValueError, match=r"cannot listen on 192\.0\.2\.1"):
        bind("192.0.2.1", 0)
