"""What waits to be sent to one client, bounded in bytes and in time."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from typing import Any

from aiohttp import web

from omni_edge.serve.realtime.items import new_id
from omni_edge.serve.settings import Limits

# "Try again later", for a client that does not take what is sent.
LAGGING = 1013


class Outbox:
    """Events on their way to a client. `put` never waits.

    Args:
        socket: the client.
        transport: its connection; None: it has gone.
        limits: how much may wait, and how long.
    """

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None, limits: Limits) -> None:
        self._socket, self._transport, self._limits = socket, transport, limits
        self._waiting: deque[str] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._overflowed = False

    def put(self, event: dict[str, Any]) -> None:
        """Sends an event behind those that wait; `event_id` is added."""
        if self._overflowed:
            return
        text = json.dumps({"event_id": new_id("event"), **event}, separators=(",", ":"))
        self._waiting.append(text)
        self._size += len(text)
        self._overflowed = self._size > self._limits.send_bytes
        self._arrived.set()

    async def run(self) -> None:
        """Sends until the client lags behind, which closes the connection with 1013, or goes."""
        try:
            while not self._overflowed:
                await self._arrived.wait()
                self._arrived.clear()
                while self._waiting and not self._overflowed:
                    text = self._waiting.popleft()
                    async with asyncio.timeout(self._limits.send):
                        await self._socket.send_str(text)
                    self._size -= len(text)
        except TimeoutError:
            pass
        except ConnectionError:
            return
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                await self._socket.close(code=LAGGING, message=b"the client does not take what is sent")
        if self._transport is not None:
            self._transport.abort()
