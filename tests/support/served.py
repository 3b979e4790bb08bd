"""A server in a thread of this process, and the official client that speaks to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from openai import OpenAI

from omni_edge import OmniEdge
from omni_edge.serve.server import running_server
from omni_edge.serve.settings import ServeSettings


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        address: such as http://127.0.0.1:1234.
        wyoming_port: port of Wyoming clients; None: they are not served.
    """

    address: str
    wyoming_port: int | None

    @property
    def port(self) -> int:
        port = urlsplit(self.address).port
        assert port is not None
        return port

    def client(self, key: str = "unused") -> OpenAI:
        """OpenAI's own client."""
        return OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=60)


@contextmanager
def served(engine: OmniEdge, settings: ServeSettings) -> Iterator[Served]:
    """Serves `engine` on a free port."""
    found: list[Served] = []
    ready, done = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with running_server(engine, settings) as (address, port):
            found.append(Served(address, port))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(20)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(20)
        loop.close()
