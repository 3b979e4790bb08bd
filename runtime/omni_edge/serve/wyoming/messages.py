"""Messages of the Wyoming protocol: a line of JSON, then data in JSON and a payload, of lengths that the line names.

The reader of the `wyoming` package takes any length that a client names, so the server reads by itself, with limits.
Source: https://github.com/OHF-Voice/wyoming
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from omni_edge.serve.faults import RequestError
from omni_edge.serve.fields import Fields, parse_json

_VERSION = "1.10.0"
# A line names the kind and two lengths; clients may put small data into it too.
LONGEST_LINE = 1 << 16
_LONGEST_DATA = 1 << 20
_LONGEST_PAYLOAD = 1 << 20


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        kind: its type.
        data: its JSON.
        payload: sound, or nothing.
    """

    kind: str
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    @property
    def fields(self) -> Fields:
        """The data, to be read."""
        return Fields(self.data)

    def encoded(self) -> bytes:
        """As it is sent."""
        data = json.dumps(self.data, ensure_ascii=False).encode() if self.data else b""
        line: dict[str, Any] = {"type": self.kind, "version": _VERSION}
        if data:
            line["data_length"] = len(data)
        if self.payload:
            line["payload_length"] = len(self.payload)
        return json.dumps(line).encode() + b"\n" + data + self.payload


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None: the client has gone.

    Args:
        reader: with the limit `LONGEST_LINE`.

    Raises:
        RequestError: it is none, or longer than allowed; what follows cannot be read.
    """
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise RequestError(f"A line is longer than {LONGEST_LINE} bytes.", code="message_too_long") from None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    head = parse_json(line)
    kind = head.text("type", longest=64)
    data_length = _length(head, "data_length", _LONGEST_DATA)
    payload_length = _length(head, "payload_length", _LONGEST_PAYLOAD)
    data = head.raw("data") or {}
    try:
        if data_length:
            data = {**Fields(data, "data").as_dict(), **parse_json(await reader.readexactly(data_length)).as_dict()}
        payload = await reader.readexactly(payload_length) if payload_length else b""
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Message(kind, Fields(data, "data").as_dict(), payload)


def _length(head: Fields, name: str, most: int) -> int:
    length = head.integer(name, 0, 1 << 62) or 0
    if length > most:
        raise RequestError(
            f"{name} is {length}; {most} is the most.",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            code="message_too_long",
            param=name,
        )
    return length
