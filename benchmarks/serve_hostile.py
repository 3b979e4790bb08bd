"""Clients that mean harm, each in a thread: what they send is wrong, endless, slow, or stops anywhere."""

from __future__ import annotations

import base64
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from serve_process import KEY, ServerProcess

_TEXT, _BINARY = 1, 2
# Seconds that an attacker waits for an answer.
_PATIENCE = 1.0
_MASK = b"\x01\x02\x03\x04"
_APPEND = json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(960)).decode()})
_ITEM = json.dumps({
    "type": "conversation.item.create",
    "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
})  # fmt: skip
_RESPOND = json.dumps({"type": "response.create", "response": {"max_output_tokens": 40}})
_KEYED = f"Authorization: Bearer {KEY}\r\n"


@dataclass
class Attack:
    """All attackers of one server.

    Attributes:
        server: which they attack.
        rounds: attacks so far, by kind.
        surprises: errors of the attackers that no server causes.
    """

    server: ServerProcess
    rounds: Counter[str] = field(default_factory=Counter)
    surprises: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def begin(self, count: int) -> None:
        """Starts so many attackers; each kind has its share."""
        for index in range(count):
            kind = KINDS[index % len(KINDS)]
            self._threads.append(threading.Thread(target=self._attack, args=(kind, random.Random(index))))
            self._threads[-1].start()

    def end(self) -> None:
        """Stops them."""
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _attack(self, kind: Callable[[Attack, random.Random], None], chance: random.Random) -> None:
        while not self._over.is_set():
            try:
                kind(self, chance)
            except (OSError, EOFError):
                pass  # the server has closed the connection
            except Exception as error:
                self.surprises.append(f"{kind.__name__}: {error!r}")
            self.rounds[kind.__name__] += 1
            self._over.wait(0.01)

    @property
    def over(self) -> bool:
        """Whether they stop."""
        return self._over.is_set()

    def connect(self, *, wyoming: bool = False) -> socket.socket:
        """A connection."""
        port = self.server.wyoming_port if wyoming else self.server.port
        return socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)

    def open_realtime(self, headers: str = _KEYED) -> socket.socket:
        """A WebSocket, whether the server has taken it or not."""
        connection = self.connect()
        connection.sendall(
            f"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{headers}\r\n".encode()
        )
        connection.recv(1 << 12)
        return connection


def _frame(payload: str | bytes, kind: int = _TEXT) -> bytes:
    """A masked frame."""
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data)
    head = bytes([0x80 | kind, 0x80 | size]) if size < 126 else bytes([0x80 | kind, 0xFE]) + struct.pack(">H", size)
    mask = (_MASK * (size // 4 + 1))[:size]
    return head + _MASK + (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def _reset(connection: socket.socket) -> None:
    """Closes without a word."""
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def garbage(attack: Attack, chance: random.Random) -> None:
    """Random bytes to either port, or in a header."""
    with attack.connect(wyoming=chance.random() < 0.3) as connection:
        data = chance.randbytes(chance.randrange(1, 20_000))
        connection.sendall(chance.choice([b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "]) + data + b"\r\n\r\n")
        connection.recv(1 << 12)


def garbage_frames(attack: Attack, chance: random.Random) -> None:
    """Frames that are none, or hold no event."""
    with attack.open_realtime() as connection:
        for _ in range(20):
            text = "".join(chance.choices('{}[]":,0 \u00e9type', k=chance.randrange(60)))
            for sent in (_frame(text), _frame('{"type": "response.cancel"}'), _frame('{"type": "session.update"}')):
                connection.sendall(sent)
        connection.sendall(chance.choice([_frame(b"\xff\xfe"), _frame(b"x", _BINARY), chance.randbytes(200)]))
        while connection.recv(1 << 16):
            pass


def huge_lengths(attack: Attack, chance: random.Random) -> None:
    """Lengths of 2 GB and more, and nothing behind them."""
    match chance.randrange(3):
        case 0:
            with attack.open_realtime() as connection:
                connection.sendall(b"\x81\xff" + struct.pack(">Q", chance.choice([1 << 31, 1 << 40, (1 << 63) - 1])))
                connection.sendall(_MASK + bytes(1000))
                while connection.recv(1 << 16):
                    pass
        case 1:
            with attack.connect() as connection:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{_KEYED}Content-Length: {1 << 40}\r\n"
                connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
                connection.recv(1 << 12)
        case _:
            with attack.connect(wyoming=True) as connection:
                connection.sendall(b'{"type": "audio-chunk", "payload_length": 2147483648}\n')
                connection.recv(1 << 12)


def slow_loris(attack: Attack, chance: random.Random) -> None:
    """A byte of a request now and then."""
    with attack.connect(wyoming=chance.random() < 0.3) as connection:
        for byte in b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + bytes(200):
            if attack.over:
                break
            connection.sendall(bytes([byte]))
            time.sleep(0.2)


def half_open(attack: Attack, chance: random.Random) -> None:
    """A request whose sender stops sending, or reading, and stays."""
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 40, "stream": True})
    with attack.connect() as connection:
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n{_KEYED}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body[: chance.randrange(len(body) + 1)]}".encode()
        )
        connection.shutdown(socket.SHUT_WR)
        time.sleep(0.5)


def wrong_key(attack: Attack, chance: random.Random) -> None:
    """Keys that are not the server's."""
    for key in (KEY[:-1], KEY + "x", "", "\u00e9", chance.randbytes(20).hex()):
        with attack.open_realtime(f"Authorization: Bearer {key}\r\n"):
            pass


def other_origin(attack: Attack, chance: random.Random) -> None:
    """A page of another site, with the right key."""
    for origin in ("https://example.org", "null", f"http://127.0.0.1:{chance.randrange(1, 1 << 16)}"):
        with attack.open_realtime(f"{_KEYED}Origin: {origin}\r\n"):
            pass


def flood(attack: Attack, chance: random.Random) -> None:
    """Sound as fast as the connection takes it: thousands of messages a second."""
    block = _frame(_APPEND) * 50
    with attack.open_realtime() as connection:
        connection.sendall(_frame('{"type": "input_audio_buffer.clear"}'))
        for _ in range(chance.randrange(1, 200)):
            if attack.over:
                break
            connection.sendall(block)


def leave_anywhere(attack: Attack, chance: random.Random) -> None:
    """Disconnects in every state of a session."""
    connection = attack.open_realtime()
    steps = [b"", _frame(_APPEND) * 20, _frame(_ITEM), _frame(_RESPOND), _frame('{"type": "response.cancel"}'), b""]
    for step in steps[: chance.randrange(len(steps) + 1)]:
        connection.sendall(step)
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.05)
    if chance.random() < 0.3:
        with suppress(TimeoutError):
            connection.recv(1 << 12)
    _reset(connection)


def never_read(attack: Attack, chance: random.Random) -> None:
    """Asks for much, and takes nothing of it."""
    with attack.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        connection.sendall(b"GET /page/app.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200)
        time.sleep(1)
        _reset(connection)


KINDS: tuple[Callable[[Attack, random.Random], None], ...] = (
    *(garbage, garbage_frames, huge_lengths, slow_loris, half_open, wrong_key, other_origin, flood, leave_anywhere),
    never_read,
)
