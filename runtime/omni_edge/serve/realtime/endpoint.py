"""`/v1/realtime`: opens a WebSocket and holds a client's session on it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus

from aiohttp import WSMsgType, web

from omni_edge.serve.faults import RequestError
from omni_edge.serve.realtime.connection import RealtimeConnection
from omni_edge.serve.realtime.outbox import Outbox
from omni_edge.serve.service import Service

_HEARTBEAT_SECONDS = 20.0
_RETRY_SECONDS = 30
_EXPIRED, _GOING_AWAY = 1000, 1001


class Realtime:
    """The handler.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sockets: set[web.WebSocketResponse] = set()

    def add_to(self, app: web.Application) -> None:
        """Adds the address."""
        app.router.add_get("/v1/realtime", self.handle)
        app.on_shutdown.append(self._close)

    async def _close(self, app: web.Application) -> None:
        """The server ends: clients are closed with 1001 and may connect again."""
        await asyncio.gather(*(_closed(socket, _GOING_AWAY, "the server ends") for socket in self._sockets))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serves one client until it goes."""
        limits = self._service.settings.limits
        if request.query.get("intent", "conversation") != "conversation":
            raise RequestError("This server has no transcription sessions.", code="unsupported_session", param="intent")
        if self._service.realtime_sessions >= limits.sessions:
            raise RequestError(
                f"{limits.sessions} sessions are open, the most. Try again later.",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code="too_many_sessions",
                retry_after=_RETRY_SECONDS,
            )
        socket = web.WebSocketResponse(
            protocols=("realtime",), heartbeat=_HEARTBEAT_SECONDS, compress=False, max_msg_size=limits.message
        )
        if not socket.can_prepare(request).ok:
            raise RequestError(
                "Open this address as a WebSocket.", status=HTTPStatus.UPGRADE_REQUIRED, code="no_websocket"
            )
        self._service.realtime_sessions += 1
        self._sockets.add(socket)
        try:
            await socket.prepare(request)
            await self._serve(socket, request)
        finally:
            self._sockets.discard(socket)
            self._service.realtime_sessions -= 1
        return socket

    async def _serve(self, socket: web.WebSocketResponse, request: web.Request) -> None:
        limits = self._service.settings.limits
        outbox = Outbox(socket, request.transport, limits)
        sending = asyncio.create_task(outbox.run())
        connection = RealtimeConnection(self._service, outbox.put)
        try:
            async with asyncio.timeout(limits.session):
                async for message in socket:
                    # What a client sent before it went is not computed any more.
                    if message.type is not WSMsgType.TEXT or request.transport is None:
                        break
                    await connection.receive(message.data)
        except TimeoutError:
            await _closed(socket, _EXPIRED, "the session has reached its age")
        finally:
            sending.cancel()
            await connection.close()
            await asyncio.wait([sending])


async def _closed(socket: web.WebSocketResponse, code: int, why: str) -> None:
    """Closes a connection; a client that does not answer is not waited for."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1):
            await socket.close(code=code, message=why.encode())
