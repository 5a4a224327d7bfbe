"""The remote recognizer with a fake server and with `transformers serve`."""

import asyncio
import base64
import functools
import gzip
import json
import logging
import math
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("openai")

from support import fake_server
from support.fake_server import (
    Reply,
    default_reply,
    last_text,
    logprobs_reply,
    text_reply,
    wait_until,
)

from emotion_perception.core.errors import ModelError, RecognizerError
from emotion_perception.core.interfaces import Explainer
from emotion_perception.core.labels import EMOTIC_LABELS
from emotion_perception.core.recognizer_settings import ServerSettings, recognizer_settings
from emotion_perception.core.values import Box, Frame, Scene, Track
from emotion_perception.recognizers.registry import make_recognizer
from emotion_perception.recognizers.vlm import prompts

pytestmark = pytest.mark.command

ALICE = Track("p00001", Box(10, 10, 90, 118), 0.9)
BOB = Track("p00002", Box(100, 20, 150, 100), 0.8)
OUTSIDE = Track("p00005", Box(500, 500, 600, 600), 0.5)
KEY = "sk-Very.Secret-1234567890"
FIRST = "Answer with yes or no: does this person feel affection?"


@functools.cache
def _certificates(**how):
    """Reading them takes longer than most of these tests."""
    return ssl.create_default_context()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("httpcore2.default_ssl_context", _certificates)


@pytest.fixture
def server():
    with fake_server.running() as server:
        yield server


@pytest.fixture
def remote(server):
    """Makes recognizers for the server, and closes them."""
    made = []

    def make(**changes):
        made.append(make_recognizer(settings(server.url, **changes)))
        return made[-1]

    yield make
    for recognizer in made:
        recognizer.close()


def settings(url, concurrency=8, timeout=5.0, retries=0, **changes):
    return recognizer_settings(
        name="remote",
        remote=ServerSettings(url, concurrency, timeout, retries),
        **{"model": "a-model", "scene_size": 128, "crop_size": 64, **changes},
    )


def scene():
    y, x = np.mgrid[:128, :160]  # smooth, so that JPEG keeps it
    image = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    return Scene(Frame(image, 1_000, "camera"), (ALICE, BOB))


def failure(recognizer, *people):
    with pytest.raises(RecognizerError) as caught:
        recognizer.assess(scene(), people or (ALICE,))
    return str(caught.value)


def decode_data_url(part):
    kind, data = part["image_url"]["url"].split(",")
    assert kind == "data:image/jpeg;base64"
    pixels = np.frombuffer(base64.b64decode(data, validate=True), np.uint8)
    return cv2.imdecode(pixels, cv2.IMREAD_COLOR)[..., ::-1]


def test_name_labels_and_thresholds(remote):
    recognizer = remote()
    assert (recognizer.name, recognizer.calibration) == ("remote:a-model", "")
    assert recognizer.labels == EMOTIC_LABELS
    assert recognizer.thresholds.tolist() == [0.5] * 26
    assert isinstance(recognizer, Explainer)


def test_import_loads_neither_torch_nor_openai():
    code = "import sys, emotion_perception.recognizers.remote; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert not {b"torch", b"transformers", b"openai"} & set(modules.split())


def test_generated_labels_are_those_of_the_text(remote, server):
    server.respond = lambda body: text_reply("Happiness, and some Doubt; not fearful.")
    (answer,) = remote(scoring="generate").assess(scene(), (ALICE,))
    named = [label for label, x in zip(EMOTIC_LABELS, answer.scores, strict=True) if x]
    assert named == ["doubt/confusion", "happiness"]
    assert set(answer.scores) == {0.0, 1.0}
    assert answer.rationale == "Happiness, and some Doubt; not fearful."
    assert (answer.vad, answer.stamp_ns) == (None, 1_000)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (text_reply(""), ""),
        (text_reply(None), ""),
        (text_reply("I'm sorry, I can't help with that."), "I'm sorry, I can't help with that."),
        (text_reply(None, refusal="I can't tell."), "I can't tell."),
    ],
)
def test_text_without_label_gives_a_reason(remote, server, reply, text):
    server.replies = [reply, text_reply("fear")]
    nothing, fear = remote(scoring="generate", concurrency=1).assess(scene(), (ALICE, BOB))
    assert (nothing.scores, nothing.reason) == (None, "the model named no label")
    assert nothing.rationale == text
    assert fear.scores.sum() == 1


@pytest.mark.parametrize(
    "reply",
    [
        text_reply("<think>Fear? Pain?</think>\nPeace"),
        text_reply("Fear? Pain?</think>Peace"),
        text_reply("Peace", reasoning_content="Fear? Pain?"),
        text_reply("Peace", reasoning="Fear? Pain?"),
        text_reply(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Fear? Pain?"}]},
                {"type": "text", "text": "Peace"},
            ]
        ),
    ],
    ids=["markers", "end only", "reasoning_content", "reasoning", "parts"],
)
def test_thoughts_of_a_server_name_no_label(remote, server, reply):
    server.respond = lambda body: reply
    (answer,) = remote(scoring="generate").assess(scene(), (ALICE,))
    assert [x for x, y in zip(EMOTIC_LABELS, answer.scores, strict=True) if y] == ["peace"]
    assert remote().explain(scene(), ALICE) == "Peace"


@pytest.mark.parametrize(
    "reply",
    [
        text_reply("<think>This person may feel fear or"),
        text_reply("<think>Fear.</think>"),
        text_reply(None, reasoning_content="This person may feel fear or"),
        text_reply("", reasoning="This person may feel fear or"),
    ],
)
def test_thoughts_without_an_answer_are_a_reason(remote, server, reply):
    server.replies = [reply, text_reply("fear")]
    nothing, fear = remote(scoring="generate", concurrency=1).assess(scene(), (ALICE, BOB))
    assert nothing.scores is None
    assert "the model only thought, in 120 tokens; turn thinking off" in nothing.reason
    assert fear.scores.sum() == 1
    server.replies = [reply]
    with pytest.raises(RecognizerError, match="wrote no reason"):
        remote().explain(scene(), ALICE)


@pytest.mark.parametrize(
    "reply",
    [
        logprobs_reply({"<think>": -0.1, "Yes": -6.0, "No": -7.0, "5": -8.0}),
        logprobs_reply({"Okay": -0.1, "Yes": -6.0}, reasoning_content="Okay"),
    ],
    ids=["marker", "field"],
)
def test_scores_are_not_read_from_thoughts(remote, server, reply):
    server.respond = lambda body: reply
    message = failure(remote())
    assert "the model thinks before it answers; turn thinking off on the server" in message


@pytest.mark.parametrize(
    "reply",
    [
        logprobs_reply({"The": -0.1, "I": -3.0}),
        text_reply("I cannot rate people."),
        Reply({"error": {"message": "content filter"}}, 400),
        Reply("<html>", 200),
    ],
    ids=["other words", "no probabilities", "refused", "broken"],
)
@pytest.mark.parametrize("dimension", ["valence", "dominance"])
def test_unanswered_dimension_costs_the_vad_only(remote, server, caplog, reply, dimension):
    expected = remote().assess(scene(), (ALICE, BOB))
    answered = server.respond
    server.respond = lambda body: (
        reply if f"rate this person's {dimension}" in last_text(body) else answered(body)
    )
    answers = remote().assess(scene(), (ALICE, BOB))
    for answer, wanted in zip(answers, expected, strict=True):
        assert np.array_equal(answer.scores, wanted.scores)
        assert (answer.vad, answer.reason) == (None, "")
    warnings = [r for r in caplog.records if "scores but no VAD" in r.getMessage()]
    assert len(warnings) == 2, "once per person"


@pytest.mark.parametrize("size", [128, 400, 4096])
def test_scene_images_are_not_enlarged_for_a_server(remote, server, size):
    server.respond = lambda body: text_reply("peace")
    remote(scoring="generate", person_view="mark", scene_size=size).assess(scene(), (ALICE,))
    (part, _) = server.chats[0]["messages"][0]["content"]
    assert max(decode_data_url(part).shape) == min(size, 160)


@pytest.mark.parametrize(
    ("scoring", "view"),
    [("generate", "mark"), ("generate", "crop"), ("generate", "both"), ("yes_no", "both")],
)
def test_prompts_and_images_equal_those_of_the_vlm(remote, server, scoring, view):
    recognizer = remote(scoring=scoring, person_view=view, concurrency=1)
    if scoring == "generate":
        server.respond = lambda body: text_reply("peace")
    recognizer.assess(scene(), (ALICE, BOB))
    chosen = settings(server.url, scoring=scoring, person_view=view)
    sources = prompts.make_prompt_images(scene().frame.image, [ALICE.box, BOB.box], chosen)
    texts = [q.text for q in prompts.questions(chosen)] or [prompts.generation_prompt(chosen)]
    expected = [(text, numbers) for numbers in sources.person_images for text in texts]
    assert len(server.chats) == len(expected)
    for body, (text, numbers) in zip(server.chats, expected, strict=True):
        (message,) = prompts.messages(chosen, text)
        sent = body["messages"][0]["content"]
        words = [{"type": "image"} if "image_url" in part else part for part in sent]
        assert [{"role": "user", "content": words}] == [message]
        images = [decode_data_url(part) for part in sent if part["type"] == "image_url"]
        for image, number in zip(images, numbers, strict=True):
            assert image.shape == sources.images[number].shape
            difference = np.abs(image.astype(int) - sources.images[number])
            assert difference.mean() < 2
            assert difference.max() < 20
        bounds = {"generate": {"max_tokens": 120}}.get(
            scoring, {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        )
        fixed = {"model": "a-model", "temperature": 0, "messages": body["messages"]}
        assert body == fixed | bounds


def test_scores_are_the_reported_probabilities(remote):
    (answer,) = remote().assess(scene(), (ALICE,))
    wanted = recognizer_settings()
    for score, question in zip(answer.scores, prompts.label_questions(wanted), strict=True):
        top = default_reply(question.text).body["choices"][0]["logprobs"]["content"][0]
        assert score == pytest.approx(math.exp(top["top_logprobs"][0]["logprob"]))
    for value, question in zip(answer.vad, prompts.vad_questions(wanted), strict=True):
        digit = 1 + sum(map(ord, question.text)) % 9
        assert value == pytest.approx((0.75 * digit + 0.25 * 9 - 5) / 4)
    assert answer.rationale is None


@pytest.mark.serial
def test_scores_do_not_depend_on_the_concurrency(remote):
    sequential, concurrent = (
        remote(concurrency=n).assess(scene(), (BOB, OUTSIDE, ALICE)) for n in (1, 16)
    )
    assert [a.person_id for a in concurrent] == [p.person_id for p in (BOB, OUTSIDE, ALICE)]
    for a, b in zip(sequential, concurrent, strict=True):
        assert (a.person_id, a.vad, a.reason) == (b.person_id, b.vad, b.reason)
        assert np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize(
    ("tokens", "score"),
    [
        ({"Yes": -1.0, " yes": -1.0, "▁YES\n": -1.0, "no": -2.0}, 3 * math.e / (3 * math.e + 1)),
        ({"Ġno": -1.0, "Yes": -1.0, "Yesterday": -0.5, "not": -0.1}, 0.5),
        ({"yes": -0.5, "The": -1.5, "I": -3.5}, 1 / (1 + math.exp(-3.0))),  # no: at most -3.5
        ({"The": -0.5, "no": -1.5, "I": -2.0}, 1 / (1 + math.exp(0.5))),
        ({"yes": 0.0, "no": -math.inf, "I": -9999.0}, 1.0),
        ({"yes": 0.0}, 0.5),  # nothing is known about no
    ],
    ids=["spellings", "look-alikes", "only yes", "only no", "infinite", "alone"],
)
def test_score_is_the_share_of_yes(remote, server, tokens, score):
    def reply(body):
        return logprobs_reply(tokens) if last_text(body).endswith(FIRST) else other_reply(body)

    other_reply, server.respond = server.respond, reply
    (answer,) = remote().assess(scene(), (ALICE,))
    assert answer.scores[0] == pytest.approx(score)


def test_unreported_digits_have_probability_zero(remote, server):
    sevens = logprobs_reply({"7": math.log(0.5), "A": math.log(0.3), " 9": math.log(0.1)})
    server.respond = lambda body: (
        sevens if "digit" in last_text(body) else logprobs_reply({"yes": -1.0, "no": -1.0})
    )
    (answer,) = remote().assess(scene(), (ALICE,))
    assert answer.vad == pytest.approx([((5 * 7 + 9) / 6 - 5) / 4] * 3)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (text_reply("yes"), "none at all"),
        (Reply({"choices": [{"message": {"content": "yes"}, "logprobs": None}]}), "none at all"),
        (Reply({"choices": [{"message": {}, "logprobs": {"content": []}}]}), "none at all"),
        (logprobs_reply({"<think>": -0.1, "The": -3.0}), r"instead of yes: \['<think>', 'the'\]"),
    ],
    ids=["no field", "null", "no token", "other words"],
)
def test_missing_log_probabilities_are_an_error_with_the_remedy(remote, server, reply, reason):
    server.respond = lambda body: reply
    with pytest.raises(RecognizerError, match=rf"{reason}.*set recognizer.scoring = generate"):
        remote().assess(scene(), (ALICE,))


def test_fewer_tokens_are_requested_if_the_server_refuses_twenty(remote, server):
    def reply(body):
        if body["top_logprobs"] > 5:
            return Reply({"error": {"message": "top_logprobs must be at most 5"}}, 400)
        return default_reply(last_text(body))

    unlimited = remote().assess(scene(), (ALICE,))[0].scores
    server.chats, server.respond = [], reply
    recognizer = remote(concurrency=2)
    for _ in range(2):
        assert np.array_equal(recognizer.assess(scene(), (ALICE,))[0].scores, unlimited)
    assert [body["top_logprobs"] for body in server.chats].count(20) <= 2
    assert len(server.chats) <= 2 * 29 + 2


def test_refusal_of_all_log_probabilities_is_an_error(remote, server):
    server.respond = lambda body: Reply({"error": {"message": "no logprobs here"}}, 400)
    message = failure(remote())
    assert "answered 400" in message
    assert "no logprobs here" in message
    assert "recognizer.scoring = generate" in message
    assert {body["top_logprobs"] for body in server.chats} == {20, 5}


@pytest.mark.parametrize("scoring", ["letters", "labels"])
def test_scoring_that_compares_all_labels_is_an_error(remote, scoring):
    with pytest.raises(ModelError, match=f"scoring = {scoring}.*yes_no or generate"):
        remote(scoring=scoring)


def test_answer_format_is_always_a_turn(remote, server):
    with pytest.raises(ValueError, match="cannot use recognizer.answer_format = 'continuation'"):
        remote(answer_format="continuation")
    remote().assess(scene(), (ALICE,))
    assert any(last_text(body).endswith(FIRST) for body in server.chats)


@pytest.mark.serial
@pytest.mark.parametrize("limit", [1, 3])
def test_concurrent_requests_are_limited(remote, server, limit):
    server.replies = [
        logprobs_reply({"yes": -1.0, "no": -1.0}, delay_s=0.3)
    ] * limit  # all at a time
    remote(concurrency=limit).assess(scene(), (ALICE, BOB))
    assert server.max_concurrent == limit
    assert len(server.chats) == 2 * 29


@pytest.mark.serial
def test_retry_waits_as_long_as_the_server_says(remote, server):
    server.replies = [Reply("busy", 429, {"Retry-After": "0.2"}), text_reply("peace")]
    start = time.monotonic()
    (answer,) = remote(scoring="generate", retries=1).assess(scene(), (ALICE,))
    assert answer.rationale == "peace"
    assert 0.2 <= time.monotonic() - start < 3


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(429, "recognizer.remote.concurrency"), (500, "server's log"), (503, "server's log")],
)
def test_error_after_the_last_retry(remote, server, status, remedy):
    server.respond = lambda body: Reply("<h1>overloaded</h1>\n" * 99, status)
    message = failure(remote(scoring="generate", retries=2))
    assert f"{server.url} answered {status} about a-model" in message
    assert remedy in message
    assert "overloaded" in message
    assert len(message) < 600
    assert len(server.chats) == 3


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "check recognizer.model"),
        (401, "set the environment variable OPENAI_API_KEY"),
        (403, "set the environment variable OPENAI_API_KEY"),
        (404, "set recognizer.model"),
    ],
)
def test_permanent_errors_are_not_retried(remote, server, status, remedy):
    server.respond = lambda body: Reply({"error": {"message": "sorry"}}, status)
    message = failure(remote(scoring="generate", retries=3))
    assert f"answered {status} about a-model" in message
    assert remedy in message
    assert len(server.chats) == 1


def test_retry_recovers_from_a_server_error(remote, server):
    server.replies = [Reply("oops", 500), text_reply("peace")]
    (answer,) = remote(scoring="generate", retries=1).assess(scene(), (ALICE,))
    assert answer.rationale == "peace"


def test_failed_request_fails_the_call_and_cancels_the_others(remote, server):
    server.replies = [Reply("no", 401)]
    recognizer = remote(concurrency=1)
    assert "answered 401" in failure(recognizer, ALICE, BOB)
    assert len(server.chats) < 5
    assert len(recognizer.assess(scene(), (ALICE,))) == 1


@pytest.mark.serial
@pytest.mark.parametrize(
    "reply",
    [replace(text_reply("peace"), delay_s=30), replace(text_reply("peace"), byte_interval_s=0.05)],
    ids=["stalls", "drips"],
)  # fmt: skip
def test_slow_server_is_an_error_after_the_deadline(remote, server, reply):
    server.respond = lambda body: reply
    recognizer = remote(scoring="generate", timeout=0.15)
    start = time.monotonic()
    message = failure(recognizer, ALICE, BOB)
    assert time.monotonic() - start < 2
    assert f"{server.url} did not answer in time (1 x 0.15 s)" in message
    assert "recognizer.remote.timeout" in message


@pytest.mark.serial
def test_long_retry_after_is_an_error_after_the_deadline(remote, server, monkeypatch):
    monkeypatch.setattr("emotion_perception.recognizers.openai_client._RETRY_PAUSE_S", 0.1)
    server.respond = lambda body: Reply("busy", 429, {"Retry-After": "60"})
    start = time.monotonic()
    assert "did not answer in time" in failure(remote(scoring="generate", timeout=0.1, retries=1))
    assert time.monotonic() - start < 2


@pytest.mark.serial
def test_late_reply_is_requested_again(remote, server):
    server.replies = [replace(text_reply("late"), delay_s=30), text_reply("peace")]
    (answer,) = remote(scoring="generate", timeout=0.5, retries=1).assess(scene(), (ALICE,))
    assert answer.rationale == "peace"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b'{"choices": [{"mess',
        b"\xff\xfe\x00",
        b"",
        {},
        [],
        None,
        "yes",
        {"choices": []},
        {"choices": None},
        {"choices": ["yes"]},
        {"choices": [{"text": "yes"}]},
        {"choices": [{"message": "yes"}]},
        {"error": "no such thing"},
    ],
    ids=str,
)
def test_invalid_reply_is_an_error(remote, server, body):
    server.respond = lambda _: Reply(body)
    for scoring in ("generate", "yes_no"):
        message = failure(remote(scoring=scoring, concurrency=1))
        assert f"the reply of {server.url} is not a chat completion" in message
        assert "set recognizer.remote.url" in message


def test_broken_connection_is_retried_or_an_error(remote, server):
    dies = replace(text_reply("peace"), missing_bytes=10)
    server.replies = [dies]
    assert "cannot be reached" in failure(remote(scoring="generate"))
    server.replies = [dies, text_reply("peace")]
    (answer,) = remote(scoring="generate", retries=1).assess(scene(), (ALICE,))
    assert answer.rationale == "peace"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_unreachable_server_is_an_error():
    url = f"http://127.0.0.1:{free_port()}/v1"
    recognizer = make_recognizer(settings(url, retries=1))
    message = failure(recognizer)
    assert f"{url} cannot be reached" in message
    assert "start the server" in message
    with pytest.raises(ModelError, match="cannot be reached"):
        recognizer.warm_up()
    recognizer.close()


def test_key_is_sent_to_the_server_only(remote, server, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    recognizer = remote(retries=1)
    recognizer.warm_up()
    recognizer.assess(scene(), (ALICE,))
    server.respond = lambda body: Reply({"error": {"message": f"wrong key: Bearer {KEY}"}}, 401)
    with pytest.raises(RecognizerError, match="wrong key: Bearer \\*\\*\\*") as caught:
        recognizer.assess(scene(), (ALICE,))
    logging.getLogger("emotion_perception").error("no answer", exc_info=caught.value)
    server.respond = lambda body: Reply(f"<{KEY}>" * 99)
    messages = [failure(recognizer), *traceback.format_exception(caught.value), repr(recognizer)]
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert any(record.name.startswith("openai") for record in caplog.records)
    assert any(record.name.startswith("http") for record in caplog.records)
    for text in (*messages, caplog.text, *(str(r.__dict__) for r in caplog.records)):
        assert KEY not in text
        assert KEY[:12] not in text


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_an_error_that_names_the_other_server(remote, server, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with fake_server.running() as other:
        location = f"{other.url}/chat/completions"
        server.respond = lambda body: Reply("", status, {"Location": location})
        message = failure(remote(retries=0))
        assert f"redirects to {location}, which is not followed" in message
        assert "recognizer.remote.url" in message
        server.models = Reply("", status, {"Location": f"{other.url}/models"})
        with pytest.raises(ModelError, match=f"redirects to {other.url}/models"):
            remote(retries=0).warm_up()
        assert other.requests == 0


def test_proxy_of_the_environment_gets_nothing(remote, server, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    with fake_server.running() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        recognizer = remote()
        recognizer.warm_up()
        recognizer.assess(scene(), (ALICE,))
        assert proxy.requests == 0
    assert server.chats


@pytest.mark.parametrize("status", [200, 400, 500])
def test_endless_reply_is_an_error_after_some_megabytes(remote, server, status):
    sent = []

    def parts():
        for number in range(2000):
            sent.append(number)
            yield b"x" * 1_000_000

    server.respond = lambda body: Reply(status=status, parts=parts())
    message = failure(remote(retries=0, scoring="generate"))
    assert f"{server.url} replies with more than 4 MB" in message
    assert len(sent) < 50  # some of it waits in the buffers of the connection


def test_compressed_reply_is_refused_before_it_is_expanded(remote, server):
    bomb = gzip.compress(b"x" * 50_000_000)
    server.respond = lambda body: Reply(bomb, 200, {"Content-Encoding": "gzip"})
    assert "compresses its replies" in failure(remote(retries=0))
    assert {headers["accept-encoding"] for headers in server.headers} == {"identity"}


def test_deeply_nested_reply_is_an_error(remote, server):
    server.respond = lambda body: Reply(b"[" * 200_000)
    assert "is not a chat completion" in failure(remote(retries=0))


@pytest.mark.parametrize("escape", [False, True])
def test_key_in_a_reply_is_hidden(remote, server, monkeypatch, escape):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    body = json.dumps(text_reply(f"Peace, says {KEY}.").body)
    if escape:
        body = body.replace("sk-V", "\\u0073k-V")
    server.respond = lambda _: Reply(body.encode())
    recognizer = remote(scoring="generate")
    assert recognizer.assess(scene(), (ALICE,))[0].rationale == "Peace, says ***."
    assert recognizer.explain(scene(), ALICE) == "Peace, says ***."


def test_error_of_a_server_is_one_short_line_without_control_characters(remote, server):
    server.respond = lambda body: Reply(b"\x1b[2J\x07" + b"n\r\n" * 10_000, 400)
    message = failure(remote(retries=0))
    assert message.isprintable()
    assert len(message) < 700


def test_server_without_keys_needs_none(remote, server):
    remote().assess(scene(), (ALICE,))
    assert {headers["authorization"] for headers in server.headers} == {"Bearer none"}


@pytest.mark.parametrize("key", ["one two", "ké", "a'b", 'a"b', "a\\b", "a\x07b"])
def test_invalid_key_is_an_error_that_does_not_show_it(remote, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ModelError, match="OPENAI_API_KEY") as caught:
        remote()
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@127.0.0.1:8000/v1",
        "https://hunter2@host/v1",
        "user:hunter2@host/v1",
        "http://host:hunter2@8000/v1",
        "http://host/v1?key=hunter2",
        "http://host/v1#hunter2",
        "http://host/v1\nhunter2",
        "http://ho st/hunter2",
        "http://host:99999/hunter2",
        "ftp://host/hunter2",
        "hunter2",
        "",
    ],
)
def test_invalid_url_is_an_error_that_does_not_show_it(url, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ModelError, match="recognizer.remote.url") as caught:
        make_recognizer(settings(url))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value)) + caplog.text


@pytest.mark.parametrize(
    "url",
    ["http://[::1]:8000/v1", "https://api.openai.com/v1", "http://robot-1.local", "http://h:1/"],
)
def test_valid_urls_are_accepted(url):
    make_recognizer(settings(url)).close()


def test_no_request_for_a_person_outside_the_image(remote, server):
    recognizer = remote(scoring="generate")
    server.respond = lambda body: text_reply("peace")
    outside, alice = recognizer.assess(scene(), (OUTSIDE, ALICE))
    assert (outside.person_id, outside.scores, outside.reason) == (
        "p00005",
        None,
        "outside the image",
    )
    assert alice.rationale == "peace"
    assert len(server.chats) == 1
    assert recognizer.assess(scene(), (OUTSIDE,))[0].reason == "outside the image"
    assert recognizer.assess(scene(), ()) == []
    assert len(server.chats) == 1


def test_explain_returns_the_reason_of_the_model(remote, server):
    recognizer = remote()
    server.replies = [text_reply(" Because she smiles. "), text_reply("")]
    assert recognizer.explain(scene(), ALICE) == "Because she smiles."
    assert last_text(server.chats[0]).endswith(prompts.RATIONALE_QUESTION)
    with pytest.raises(RecognizerError, match="wrote no reason for p00001"):
        recognizer.explain(scene(), ALICE)
    with pytest.raises(RecognizerError, match="p00005 is outside the image"):
        recognizer.explain(scene(), OUTSIDE)
    assert len(server.chats) == 2


def test_warm_up_checks_the_server_and_the_key(remote, server):
    remote().warm_up()
    for status in (404, 500):
        server.models = Reply("there is no such list", status)
        remote().warm_up()
    for status, remedy in ((401, "OPENAI_API_KEY"), (503, "server's log")):
        server.models = Reply("not you, not now", status)
        with pytest.raises(ModelError, match=f"answered {status}.*{remedy}"):
            remote().warm_up()
    assert server.chats == []


def test_assess_works_inside_a_running_loop(remote):
    async def notebook():
        return remote().assess(scene(), (ALICE,))

    assert asyncio.run(notebook())[0].scores is not None


def test_close_ends_the_thread(server):
    recognizer = make_recognizer(settings(server.url))
    recognizer.assess(scene(), (ALICE,))
    recognizer.close()
    assert recognizer.name not in [thread.name for thread in threading.enumerate()]


def test_missing_library_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ModelError, match="pip install openai"):
        make_recognizer(settings("http://127.0.0.1:1/v1"))


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def serving(tmp_path):
    """A real `transformers serve`: process, url, and the name of its model."""
    pytest.importorskip("transformers")
    pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    from emotion_perception.testing.checkpoints.vlm import save_tiny

    model, port = str(save_tiny("smolvlm", tmp_path / "smolvlm")), free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | offline)
    try:
        up = wait_until(
            lambda: answers(f"http://127.0.0.1:{port}/health") or process.poll() is not None, 60
        )
        assert up, (tmp_path / "log").read_text()
        assert process.poll() is None, (tmp_path / "log").read_text()
        yield process, f"http://127.0.0.1:{port}/v1", model
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.models
def test_transformers_serve_replies_and_its_end_is_an_error(serving):
    process, url, model = serving
    # Where nothing was fetched it fails to list models, and drops the connection after that.
    wanted = settings(url, model=model, timeout=30.0, retries=2, scoring="generate")
    recognizer = make_recognizer(wanted)
    recognizer.warm_up()
    for _ in range(2):
        alice, outside, bob = recognizer.assess(scene(), (ALICE, OUTSIDE, BOB))
        assert outside.reason == "outside the image"
        for answer in (alice, bob):
            assert answer.rationale
            assert answer.scores is not None or answer.reason == "the model named no label"
    assert recognizer.explain(scene(), ALICE)

    scorer = make_recognizer(replace(wanted, scoring="yes_no"))
    # It says "Ignoring unsupported fields" about log-probabilities, in its copied log only.
    with pytest.raises(RecognizerError, match="none at all.*set recognizer.scoring = generate"):
        scorer.assess(scene(), (ALICE,))
    scorer.close()

    stranger = make_recognizer(replace(wanted, model="another"))
    assert "pinned to" in failure(stranger)
    stranger.close()

    process.kill()
    process.wait(10)
    assert f"{url} cannot be reached" in failure(recognizer)
    recognizer.close()
