"""How many connections are open, and that none of them is held open without a request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from omni_edge.serve.settings import Limits

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ROUND_SECONDS = 1.0
_REFUSAL = (b"HTTP/1.1 503 Service Unavailable", b"Retry-After: 5", b"Connection: close", b"Content-Length: 0")


class Connections:
    """The connections of one server.

    Args:
        limits: their number, and the time in which a request's headers have to come.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._server: web.Server | None = None
        self._working: set[asyncio.BaseProtocol] = set()
        self._idle_since: dict[asyncio.BaseProtocol, float] = {}

    @property
    def count(self) -> int:
        """Those that are open."""
        return len(self._server.connections) if self._server is not None else 0

    def accept_for(self, server: web.Server) -> Callable[[], asyncio.BaseProtocol]:
        """What `loop.create_server` takes: connections of `server`, and refusals where there are too many."""
        self._server = server

        def accept() -> asyncio.BaseProtocol:
            return server() if self.count < self._limits.connections else _Refusal()

        return accept

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Notes which connections work on a request."""
        protocol = request.protocol
        self._working.add(protocol)
        try:
            return await handler(request)
        finally:
            self._working.discard(protocol)
            self._idle_since.pop(protocol, None)

    async def watch(self) -> None:
        """Closes, for ever, what sends no complete headers in time."""
        while True:
            await asyncio.sleep(min(_ROUND_SECONDS, self._limits.header / 2))
            now = time.monotonic()
            open_ones = set(self._server.connections) if self._server is not None else set()
            self._idle_since = {protocol: self._idle_since.get(protocol, now) for protocol in open_ones - self._working}
            for protocol, since in self._idle_since.items():
                transport = getattr(protocol, "transport", None)
                if now - since > self._limits.header and transport is not None:
                    transport.abort()


class _Refusal(asyncio.Protocol):
    """A connection that is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"\r\n".join([*_REFUSAL, b"", b""]))
        transport.close()
