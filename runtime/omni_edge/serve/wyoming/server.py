"""Listening for Wyoming clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from omni_edge.serve.faults import cannot_listen
from omni_edge.serve.service import Service
from omni_edge.serve.settings import ServeSettings
from omni_edge.serve.wyoming.announcement import announced
from omni_edge.serve.wyoming.connection import Conversations, WyomingConnection
from omni_edge.serve.wyoming.messages import LONGEST_LINE

log = logging.getLogger("omni_edge.serve")


@asynccontextmanager
async def wyoming_server(service: Service, settings: ServeSettings) -> AsyncIterator[int]:
    """A server for Wyoming clients; within it they are served.

    Args:
        service: what is served.
        settings: where it listens; `wyoming_port` is not None.

    Returns:
        its port.

    Raises:
        ServerError: it cannot listen there.
    """
    conversations, clients = Conversations(), set[asyncio.Task[None]]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            # A client that waits has sent nothing yet, so there is nothing to answer.
            if len(clients) < settings.limits.sessions:
                clients.add(task)
                connection = WyomingConnection(service, settings.languages, conversations, reader, writer)
                await connection.serve()
        except (ConnectionError, TimeoutError):
            log.debug("a Wyoming client has gone")
        finally:
            clients.discard(task)
            writer.close()

    try:
        listening = await asyncio.start_server(accept, settings.host, settings.wyoming_port, limit=LONGEST_LINE)
    except (OSError, OverflowError) as error:
        raise cannot_listen(settings.host, settings.wyoming_port, error, "--wyoming") from None
    try:
        port: int = listening.sockets[0].getsockname()[1]
        async with announced(settings.host, port):
            yield port
    finally:
        listening.close()
        for task in clients:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*clients, return_exceptions=True)
