"""Home Assistant finds the Wyoming port by mDNS."""

from __future__ import annotations

import asyncio
import socket

import pytest

from omni_edge.serve.wyoming import announcement
from omni_edge.serve.wyoming.announcement import announced


def test_the_port_is_announced_and_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    zeroconf = pytest.importorskip("zeroconf.asyncio")
    # Within this machine, so that no network is needed.
    monkeypatch.setattr(announcement, "is_loopback", lambda host: False)

    async def find() -> None:
        browser = zeroconf.AsyncZeroconf(interfaces=["127.0.0.1"])
        name = f"omni-edge-{socket.gethostname().partition('.')[0]}-10300._wyoming._tcp.local."
        try:
            async with announced("127.0.0.1", 10300) as done:
                assert done
                found = await browser.async_get_service_info("_wyoming._tcp.local.", name, 3000)
                assert (found.port, found.parsed_addresses()) == (10300, ["127.0.0.1"])
        finally:
            await browser.async_close()

    asyncio.run(find())


@pytest.mark.parametrize("installed", [True, False])
def test_what_nobody_reaches_is_not_announced(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(announcement, "can_announce", lambda: installed)

    async def tell(host: str) -> bool:
        async with announced(host, 1) as done:
            return done

    assert not asyncio.run(tell("localhost"))
    if not installed:
        assert not asyncio.run(tell("0.0.0.0"))
