"""How the server listens, and what one client may ask of it: frozen objects, checked here and nowhere else."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path

from omni_edge.errors import UsageError

_SHORTEST_KEY = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may use. Sizes in bytes and lengths in seconds unless said otherwise.

    Attributes:
        body: of a request.
        message: of a WebSocket message.
        text: characters of one text.
        items: messages, and parts of messages, of a request; items of a Realtime conversation.
        sound: of one sound that is sent whole, and of one spoken turn.
        decoded: sounds and pictures of one request or one Realtime conversation, decoded.
        connections: open at a time.
        sessions: Realtime sessions open at a time.
        waiting: generations that wait for the active one.
        header: until a request's headers have come.
        body_seconds: until its body has come.
        send: that a client may lag behind what is sent to it.
        session: age of a Realtime session.
        send_bytes: that wait to be sent to one Realtime client.
        kept: conversations of `/v1/chat/completions` whose caches are kept for their next turn.

    Raises:
        UsageError: a value is not above 0.
    """

    body: int = 32 << 20
    message: int = 16 << 20
    text: int = 200_000
    items: int = 512
    sound: float = 300.0
    decoded: int = 512 << 20
    connections: int = 128
    sessions: int = 8
    waiting: int = 16
    header: float = 10.0
    body_seconds: float = 60.0
    send: float = 5.0
    session: float = 3600.0
    send_bytes: int = 8 << 20
    kept: int = 2

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0 and not (each.name == "waiting" and value == 0):
                raise UsageError(f"The server's limit {each.name!r} is {value}; it must be above 0.")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Where the server listens, and for whom.

    Attributes:
        host: address to listen on.
        port: port; 0 takes a free one.
        api_key: what clients have to send; None: no key, on a loopback address only.
        host_names: further names by which clients may call this server, beside addresses, localhost and its own name.
        origins: further origins of pages that may use it, such as https://example.org, beside its own.
        limits: what one client may use.
        wyoming_port: port for Wyoming clients, which send no key; 0 takes a free one; None: they are not served.
        languages: of the model, as Wyoming clients see them.
        context: positions of a conversation; None: the default of a session.
        smart_turn: Smart Turn's ONNX file, by which `semantic_vad` judges sentences; None: it waits for silence.

    Raises:
        UsageError: another address than loopback without a key, or a key that is too short.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key: str | None = field(default=None, repr=False)
    host_names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    wyoming_port: int | None = None
    languages: tuple[str, ...] = ("en",)
    context: int | None = None
    smart_turn: Path | None = None

    def __post_init__(self) -> None:
        if self.api_key is None and not is_loopback(self.host):
            raise UsageError(
                f"{self.host} can be reached by other machines, so clients need a key. Write one of {_SHORTEST_KEY} or "
                "more characters into a file that only you can read, and name it: --api-key-file FILE"
            )
        if self.api_key is not None and (len(self.api_key) < _SHORTEST_KEY or not self.api_key.isascii()):
            raise UsageError(
                f"The API key must have {_SHORTEST_KEY} or more ASCII characters. Make one: openssl rand -hex 24"
            )
        for port in (self.port, self.wyoming_port or 0):
            if not 0 <= port <= 65_535:
                raise UsageError(f"The port is {port}; it must be from 0 to 65535.")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def read_api_key(file: Path) -> str:
    """The key in a file, without the line's end.

    Raises:
        UsageError: the file cannot be read or others may read it.
    """
    try:
        mode, text = file.stat().st_mode, file.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The API key cannot be read from {file} ({error}). Write one line of ASCII there.") from None
    # Windows has no such bits.
    if os.name == "posix" and mode & 0o077:
        raise UsageError(f"Other users may read {file}, which holds the API key. Change that: chmod 600 {file}")
    return text.strip()
