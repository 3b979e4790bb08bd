"""What a hostile client meets: checks, caps, the queue, and cancellation. It never meets a traceback."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import openai
import pytest

from omni_edge import OmniEdge
from omni_edge.errors import UsageError
from omni_edge.serve.settings import Limits, ServeSettings
from support.served import Served, served

KEY = "a-key-of-twenty-four-characters"
LIMITS = Limits(body=1 << 16, header=0.4, body_seconds=0.4, connections=6, waiting=1)


@pytest.fixture(scope="module")
def strict(engine: OmniEdge) -> Iterator[Served]:
    """A server with a key and small limits, whose replies end by their limits alone."""
    with served(engine, ServeSettings(port=0, api_key=KEY, limits=LIMITS)) as running:
        yield running


@pytest.fixture(autouse=True)
def no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def request(
    server: Served, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON and headers of a response."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **(headers or {})}
        connection.request("GET" if body is None else "POST", path, body, sent)
        response = connection.getresponse()
        data = response.read()
        return response.status, json.loads(data) if data[:1] == b"{" else {}, dict(response.getheaders())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "192.168.1.5:8080"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "rebound.example.org"}, 403),
        ({"Host": "127.0.0.1.example.org"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::"}, 403),
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:1"}, 200),
        ({"Host": "127.0.0.1:1", "Origin": "http://127.0.0.1:2"}, 403),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {KEY}x"}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "", "Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{KEY}"}, 200),
    ],
)
def test_host_origin_and_key(strict: Served, headers: dict[str, str], status: int) -> None:
    answered, answer, marks = request(strict, "/v1/models", headers)
    assert answered == status
    assert ("error" in answer) == (status != 200)
    assert marks["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in marks["Content-Security-Policy"]


def test_other_addresses_than_loopback_need_a_key() -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(UsageError, match="api-key-file"):
            ServeSettings(host=host)
    ServeSettings(host="0.0.0.0", api_key=KEY)
    with pytest.raises(UsageError, match="16 or more"):
        ServeSettings(api_key="short")
    assert KEY not in repr(ServeSettings(api_key=KEY))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 60_000, 400),
        (b'{"a":' * 9_000, 400),
        (b"\xff\xfe", 400),
        (b'{"messages": [{"role": "user", "content": NaN}]}', 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}', 400),
        (b'{"messages": [{"role": "user", "content": []}]}', 400),
        (b'{"messages": {"role": "user"}}', 400),
        (b'{"messages": [1]}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}", 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}', 400),
        (b'{"messages": [{"role": "user", "content": "x"}], "stream": 1}', 400),
        (b'{"messages": [{"role": "user", "content": "' + b"x" * 60_000 + b'"}]}', 400),
        (b"x" * (1 << 17), 413),
    ],
    ids=range(17),
)
def test_garbage_is_refused(strict: Served, body: bytes, status: int) -> None:
    answered, answer, _ = request(strict, "/v1/chat/completions", {}, body)
    assert (answered, bool(answer["error"]["message"])) == (status, True)


def test_other_types_of_content_are_refused(strict: Served) -> None:
    assert request(strict, "/v1/chat/completions", {"Content-Type": "text/plain"}, b"{}")[0] == 415
    assert request(strict, "/v1/audio/transcriptions", {}, b"{}")[0] == 415
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n\r\n--x--\r\n',
    ):
        assert request(strict, "/v1/audio/transcriptions", multipart, body)[0] == 400
    assert request(strict, "/nothing")[0] == 404
    assert request(strict, "/v1/models", {}, b"{}")[0] == 405


def closed(connection: socket.socket, seconds: float) -> bool:
    """Whether the server closes a connection in time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_who_sends_slowly_is_left(strict: Served) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    full = f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    for sent in ("", head[:30], head, full):
        with socket.create_connection(("127.0.0.1", strict.port)) as connection:
            connection.sendall(sent.encode())
            assert closed(connection, 3), sent


def test_connections_are_counted(strict: Served) -> None:
    held = [socket.create_connection(("127.0.0.1", strict.port)) for _ in range(LIMITS.connections)]
    time.sleep(0.1)
    with socket.create_connection(("127.0.0.1", strict.port)) as refused:
        refused.settimeout(3)
        assert refused.recv(100).startswith(b"HTTP/1.1 503")
    for connection in held:
        connection.close()
    time.sleep(0.1)
    assert request(strict, "/health")[0] == 200


def ask_at_length(server: Served, outcomes: list[object]) -> None:
    try:
        with server.client(KEY) as client:
            messages: Any = [{"role": "user", "content": "hello"}]
            client.chat.completions.create(model="omni", messages=messages, max_completion_tokens=400)
        outcomes.append("answered")
    except openai.RateLimitError as error:
        outcomes.append(error.response.headers["Retry-After"])


def test_the_queue_is_bounded(strict: Served) -> None:
    outcomes: list[object] = []
    threads = [threading.Thread(target=ask_at_length, args=(strict, outcomes)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    refused = [outcome for outcome in outcomes if outcome != "answered"]
    assert outcomes.count("answered") == 2
    assert len(refused) == 2
    assert all(int(str(seconds)) >= 1 for seconds in refused)


def test_a_client_that_goes_ends_its_reply(strict: Served) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8000, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        connection.sendall(head.encode() + body)
        connection.settimeout(20)
        while b'"content"' not in connection.recv(1 << 16):
            pass
    began = time.monotonic()
    with strict.client(KEY) as client:
        messages: Any = [{"role": "user", "content": "hello"}]
        client.chat.completions.create(model="omni", messages=messages, max_completion_tokens=1)
    # 8000 tokens take many times as long.
    assert time.monotonic() - began < 2


def test_metrics_are_counted(strict: Served) -> None:
    with closing(HTTPConnection("127.0.0.1", strict.port)) as connection:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
        text = connection.getresponse().read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["omni_edge_generations_active"]) == 0
    assert float(values["omni_edge_ttft_seconds_count"]) >= 3
    assert float(values["omni_edge_resident_memory_bytes"]) > 1e7
    assert values['omni_edge_requests_total{path="/v1/chat/completions",status="429"}'] == "2"
