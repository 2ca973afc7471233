"""A client of OpenAI-compatible servers, against real ones that misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from navila.endpoint import Endpoint, EndpointError, NoAnswerError, UnreachableError, image_part, text_part
from navila.errors import ConfigError

MESSAGES = [{"role": "user", "content": "What is it?"}]
KEY = "sk-very-secret"


def completion(text: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


@contextmanager
def server(*replies: tuple[int, dict[str, str], bytes] | float) -> Iterator[tuple[Endpoint, list[dict[str, Any]]]]:
    """A server that gives these replies in turn, the last one for ever; a number hangs for so many seconds."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            reply = replies[min(len(requests), len(replies)) - 1]
            if isinstance(reply, float):
                time.sleep(reply)
                return
            status, headers, content = reply
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{running.server_address[1]}/v1"
        yield Endpoint(url=url, model="tiny", key=KEY, attempts=4, pause=0.01, timeout=300), requests
        running.shutdown()


def test_a_question_is_sent_and_its_answer_read():
    parts = [image_part(b"\xff\xd8"), text_part("What is it?")]
    with server((200, {}, completion(" A sofa. "))) as (endpoint, requests):
        assert endpoint.ask([{"role": "user", "content": parts}], temperature=0.5, seed=3) == "A sofa."
    (request,) = requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == f"Bearer {KEY}"
    assert request["body"]["model"] == "tiny"
    assert (request["body"]["temperature"], request["body"]["seed"]) == (0.5, 3)
    assert request["body"]["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9g="}},
        {"type": "text", "text": "What is it?"},
    ]


def test_an_answer_in_parts_is_read():
    with server((200, {}, completion([{"type": "text", "text": "A "}, {"type": "text", "text": "sofa."}]))) as (e, _):
        assert e.ask(MESSAGES) == "A sofa."


def test_a_reasoning_model_is_asked_with_what_it_takes(caplog: pytest.LogCaptureFixture):
    def refusal(name: str, code: str) -> tuple[int, dict[str, str], bytes]:
        return 400, {}, json.dumps({"error": {"message": "no", "param": name, "code": code}}).encode()

    refusals = refusal("max_tokens", "unsupported_parameter"), refusal("temperature", "unsupported_value")
    with server(*refusals, (200, {}, completion("Yes."))) as (endpoint, requests):
        for _ in range(2):
            assert endpoint.ask(MESSAGES, temperature=0.0, max_tokens=9, seed=3) == "Yes."
    sent = [{name: body for name, body in request["body"].items() if name != "messages"} for request in requests]
    given, final = {"model": "tiny", "seed": 3}, {"model": "tiny", "seed": 3, "max_completion_tokens": 9}
    assert sent == [given | {"temperature": 0.0, "max_tokens": 9}, final | {"temperature": 0.0}, final, final]
    assert [record.getMessage() for record in caplog.records] == [
        "tiny takes no max_tokens: it is asked with max_completion_tokens.",
        "tiny takes no temperature: it is asked without.",
    ]
    with server(refusal("seed", "unsupported_parameter")) as (endpoint, requests):
        with pytest.raises(NoAnswerError, match="refuses a question"):
            endpoint.ask(MESSAGES, seed=3)
        assert len(requests) == 1


@pytest.mark.parametrize(
    "failure",
    [
        (429, {}, b"slow down"),
        (500, {}, b"oh"),
        (503, {"Retry-After": "soon"}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[" * 100_000),
        (200, {}, b'{"choices": []}'),
        (200, {}, completion(None)),
        (200, {}, completion(7)),
        (200, {"Content-Length": "999"}, b"cut off"),
    ],
)
def test_what_passes_is_tried_again(failure: tuple[int, dict[str, str], bytes]):
    with server(failure, failure, (200, {}, completion("A sofa."))) as (endpoint, requests):
        assert endpoint.ask(MESSAGES) == "A sofa."
    assert len(requests) == 3


def test_pauses_grow_and_are_as_long_as_the_server_asks_but_not_endless():
    pauses: list[float] = []
    replies = [(429, {"Retry-After": "7"}, b""), (429, {"Retry-After": "86400"}, b""), (500, {}, b"")]
    with server(*replies, (200, {}, completion("Yes."))) as (endpoint, _):
        endpoint.ask(MESSAGES, wait=pauses.append)
    assert pauses[:2] == [7.0, 60.0]
    assert 0.04 <= pauses[2] <= 0.05


def test_a_server_that_hangs_is_given_up():
    with server(3.0) as (endpoint, requests):
        impatient = Endpoint(url=endpoint.url, model="tiny", attempts=2, pause=0.01, timeout=0.3)
        with pytest.raises(UnreachableError, match=r"failed 2 times: it gives no answer \(.*timed out"):
            impatient.ask(MESSAGES)
        # A server that is slow has not read them yet.
        end = time.monotonic() + 60
        while len(requests) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(requests) == 2


def test_a_server_that_is_not_there_is_named():
    # Nobody listens on a port that is held, and nobody else can begin to.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        with pytest.raises(UnreachableError, match=f"{url} failed 4 times.*refused"):
            Endpoint(url=url, model="tiny", attempts=4, pause=0.01).ask(MESSAGES)


def test_a_refused_question_is_not_repeated():
    refusal = r"refuses a question: it gives the status 400 \(too long\)"
    with server((400, {}, b"too long")) as (endpoint, requests), pytest.raises(NoAnswerError, match=refusal):
        endpoint.ask(MESSAGES)
    assert len(requests) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_stops_and_the_key_is_not_told(status: int):
    advice = "check the URL, the model and OPENAI_API_KEY"
    with (
        server((status, {}, f"bad key {KEY}".encode())) as (endpoint, requests),
        pytest.raises(EndpointError, match=advice) as caught,
    ):
        endpoint.ask(MESSAGES)
    assert len(requests) == 1
    assert KEY not in str(caught.value)
    assert KEY not in repr(endpoint)


def test_the_key_follows_no_redirection():
    with server((200, {}, completion("Mine."))) as (other, stolen):
        for status in (302, 307):
            reply = (status, {"Location": f"{other.url}/chat/completions"}, b"")
            with server(reply) as (endpoint, _), pytest.raises(EndpointError, match=f"a redirection to {other.url}"):
                endpoint.ask(MESSAGES)
    assert stolen == []


def test_the_key_is_the_environments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Endpoint.from_environment("http://localhost/v1", "tiny").key == KEY
    monkeypatch.delenv("OPENAI_API_KEY")
    assert Endpoint.from_environment("http://localhost/v1", "tiny").key is None


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", ""])
def test_what_is_no_url_is_told(url: str):
    with pytest.raises(ConfigError, match="no http URL"):
        Endpoint(url=url, model="tiny")
