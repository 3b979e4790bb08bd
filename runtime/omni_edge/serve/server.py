"""A running server: sockets, the application behind them, and its end."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from omni_edge.engine import OmniEdge
from omni_edge.serve.app import make_app
from omni_edge.serve.connections import Connections
from omni_edge.serve.faults import cannot_listen
from omni_edge.serve.service import Service
from omni_edge.serve.settings import ServeSettings
from omni_edge.serve.wyoming.server import wyoming_server

log = logging.getLogger("omni_edge.serve")

_KEEP_ALIVE_SECONDS = 30.0
_LARGEST_HEADER = 8190
# Answers in progress get so long when the server ends.
_SHUTDOWN_SECONDS = 2.0


@asynccontextmanager
async def running_server(
    engine: OmniEdge, settings: ServeSettings, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, int | None]]:
    """A server for `engine`; within it clients are served.

    Args:
        engine: the loaded bundle.
        settings: where it listens, and for whom.
        tls: certificate and key; None: without encryption.

    Returns:
        the address, such as http://127.0.0.1:8080, and the port of Wyoming clients, if they are served.

    Raises:
        ServerError: it cannot listen there.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_report)
    service = Service(engine, settings)
    connections = Connections(settings.limits)
    runner = web.AppRunner(
        make_app(service, connections),
        handler_cancellation=True,
        access_log=None,
        logger=_quiet_logger(),
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        lingering_time=_SHUTDOWN_SECONDS,
        shutdown_timeout=_SHUTDOWN_SECONDS,
        max_line_size=_LARGEST_HEADER,
        max_field_size=_LARGEST_HEADER,
    )
    await runner.setup()
    assert runner.server is not None
    try:
        accept = connections.accept_for(runner.server)
        try:
            listening = await loop.create_server(accept, settings.host, settings.port, ssl=tls)
        except (OSError, OverflowError) as error:
            raise cannot_listen(settings.host, settings.port, error, "--port or --host") from None
        watching = asyncio.create_task(connections.watch())
        try:
            port = listening.sockets[0].getsockname()[1]
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            address = f"{'http' if tls is None else 'https'}://{host}:{port}"
            if settings.wyoming_port is None:
                yield address, None
            else:
                async with wyoming_server(service, settings) as wyoming_port:
                    yield address, wyoming_port
        finally:
            listening.close()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
    finally:
        await runner.cleanup()
        service.close()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What asyncio has to report, such as a handshake that failed: one line."""
    error = context.get("exception")
    log.warning("%s%s", context.get("message", "error"), f" ({type(error).__name__})" if error else "")
    if error is not None:
        log.debug("its traceback", exc_info=error)


def _quiet_logger() -> logging.Logger:
    """aiohttp's log: one line per event, tracebacks only while debugging."""
    logger = logging.getLogger("omni_edge.serve.http")
    if not logger.filters:
        logger.addFilter(_without_traceback)
    return logger


def _without_traceback(record: logging.LogRecord) -> bool:
    if logging.getLogger("omni_edge.serve").isEnabledFor(logging.DEBUG):
        return True
    # A client that speaks no HTTP is answered with 400, and is no error of the server.
    theirs = record.exc_info is not None and isinstance(record.exc_info[1], HttpProcessingError)
    record.exc_info = record.exc_text = None
    return not theirs
