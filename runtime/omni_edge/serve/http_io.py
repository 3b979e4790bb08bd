"""Bodies in and event streams out, with a clock beside both."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from aiohttp import web

from omni_edge.serve.faults import RequestError
from omni_edge.serve.fields import Fields, parse_json
from omni_edge.serve.service import Service

# Larger JSON is parsed beside the server's thread.
_QUICK_BYTES = 1 << 16


async def read_body(request: web.Request, service: Service) -> bytes:
    """The whole body.

    Raises:
        RequestError: it is too large, or comes too slowly.
    """
    limits = service.settings.limits
    try:
        async with asyncio.timeout(limits.body_seconds):
            body: bytes = await request.read()
    except TimeoutError:
        raise RequestError(
            f"The body did not come within {limits.body_seconds:.0f} s.",
            status=HTTPStatus.REQUEST_TIMEOUT,
            code="timeout",
        ) from None
    return body


async def read_json(request: web.Request, service: Service) -> Fields:
    """The body's JSON object.

    Raises:
        RequestError: another type than JSON, too large, too slow, or no object.
    """
    if request.content_type != "application/json":
        raise RequestError(
            "Send the request as Content-Type: application/json.",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            code="invalid_content_type",
        )
    body = await read_body(request, service)
    return parse_json(body) if len(body) < _QUICK_BYTES else await service.help(lambda: parse_json(body))


class StreamedResponse:
    """A response that is sent while it is made. A client that does not take it in time is left.

    Args:
        request: what it answers.
        content_type: of the body.
        seconds: that one piece may wait.
    """

    def __init__(self, request: web.Request, content_type: str, seconds: float) -> None:
        self._request, self._seconds = request, seconds
        self._response = web.StreamResponse(headers={"Content-Type": content_type})

    @property
    def begun(self) -> bool:
        """Whether the status was sent."""
        return bool(self._response.prepared)

    async def write(self, data: bytes) -> None:
        """Sends a piece.

        Raises:
            ConnectionError: the client has gone, or does not take it.
        """
        try:
            async with asyncio.timeout(self._seconds):
                if not self._response.prepared:
                    await self._response.prepare(self._request)
                if data:
                    await self._response.write(data)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client does not take what is sent") from None

    async def close(self) -> web.StreamResponse:
        """Sends the end."""
        await self.write(b"")
        await self._response.write_eof()
        return self._response


class EventStream:
    """Server-sent events.

    Args:
        request: what they answer.
        seconds: that one event may wait.
    """

    def __init__(self, request: web.Request, seconds: float) -> None:
        self._stream = StreamedResponse(request, "text/event-stream", seconds)

    @property
    def begun(self) -> bool:
        """Whether anything was sent."""
        return self._stream.begun

    async def send(self, value: dict[str, Any]) -> None:
        """One event."""
        await self._stream.write(b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n")

    async def close(self, last: str | None = "[DONE]") -> web.StreamResponse:
        """The event that ends the stream, where there is one, and the end."""
        if last is not None:
            await self._stream.write(f"data: {last}\n\n".encode())
        return await self._stream.close()
