"""Announcing the Wyoming port in the local network, so that Home Assistant finds it (mDNS)."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

from omni_edge.serve.settings import is_loopback

_SERVICE = "_wyoming._tcp.local."
# Sending nothing, a socket to this address of mDNS has the machine's own address in the local network.
_MDNS = ("224.0.0.251", 5353)


def can_announce() -> bool:
    """Whether the package zeroconf is installed; it is under the LGPL, so the user chooses."""
    try:
        import zeroconf  # noqa: F401, PLC0415 -- an extra
    except ImportError:
        return False
    return True


@asynccontextmanager
async def announced(host: str, port: int) -> AsyncIterator[bool]:
    """Within it the port is announced.

    Args:
        host: the address on which Wyoming clients are served.
        port: their port.

    Returns:
        False: it is not, because nobody else can reach `host`, zeroconf is not installed, or there is no network.
    """
    address = None if is_loopback(host) or not can_announce() else _own_address(host)
    if address is None:
        yield False
        return
    from zeroconf import IPVersion  # noqa: PLC0415 -- an extra
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf  # noqa: PLC0415

    name = f"omni-edge-{socket.gethostname().partition('.')[0]}-{port}"
    service = AsyncServiceInfo(_SERVICE, f"{name}.{_SERVICE}", addresses=[socket.inet_aton(address)], port=port)
    network = AsyncZeroconf(interfaces=[address], ip_version=IPVersion.V4Only)
    try:
        await network.async_register_service(service)
        yield True
    finally:
        await network.async_unregister_all_services()
        await network.async_close()


def _own_address(host: str) -> str | None:
    """The IPv4 address that others reach; None: there is none."""
    try:
        if not ip_address(host).is_unspecified:
            return host if ip_address(host).version == 4 else None
    except ValueError:
        pass
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_MDNS)
            found: str = probe.getsockname()[0]
    except OSError:
        return None
    return found
