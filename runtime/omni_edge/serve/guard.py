"""Who may use the server: Host, Origin and key are checked before anything else, and every response is marked."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

from omni_edge.serve.faults import RequestError
from omni_edge.serve.settings import ServeSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Without a key: what says nothing about the conversations, and the page, which asks for the key.
_OPEN = frozenset({"/", "/health"})
OPEN_FOLDER = "/page/"
# The browser's WebSocket takes no headers; OpenAI's clients send the key as a subprotocol there.
KEY_PROTOCOL = "openai-insecure-api-key."
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "microphone=(self), camera=(self), geolocation=(), payment=(), usb=()",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Guard:
    """Checks requests.

    Args:
        settings: the server's.
    """

    def __init__(self, settings: ServeSettings) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own.partition('.')[0]}.local", *map(str.lower, settings.host_names)}
        self._origins = {origin.lower().rstrip("/") for origin in settings.origins}
        self._key = None if settings.api_key is None else _digest(settings.api_key)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Lets a request pass, or answers it with an error."""
        self.check(request)
        return await handler(request)

    def check(self, request: web.Request) -> None:
        """Lets a request pass.

        Raises:
            RequestError: a foreign Host or Origin (403), or no valid key (401).
        """
        host = request.headers.getall("Host", [])
        if len(host) != 1 or not self._is_own(_hostname(host[0])):
            raise RequestError(
                "This server does not go by that name. Use its address, or start it with --allow-host NAME.",
                status=HTTPStatus.FORBIDDEN,
                code="host_not_allowed",
            )
        for origin in request.headers.getall("Origin", []):
            if origin.lower() not in (f"{request.scheme}://{host[0].lower()}", *self._origins):
                raise RequestError(
                    "Pages of another origin may not use this server. Start it with --allow-origin ORIGIN to let one.",
                    status=HTTPStatus.FORBIDDEN,
                    code="origin_not_allowed",
                )
        if self._key is not None and not self._is_open(request.path) and not self._has_key(request):
            raise RequestError(
                "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.",
                status=HTTPStatus.UNAUTHORIZED,
                code="invalid_api_key",
            )

    def _is_own(self, name: str) -> bool:
        """Whether `name` cannot have been pointed here by a stranger: an address, or a name of this machine."""
        try:
            ip_address(name)
        except ValueError:
            return name in self._names
        return True

    @staticmethod
    def _is_open(path: str) -> bool:
        return path in _OPEN or path.startswith(OPEN_FOLDER)

    def _has_key(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        keys = [given.strip()] if scheme.lower() == "bearer" else []
        protocols = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        keys += [name.removeprefix(KEY_PROTOCOL) for name in protocols if name.startswith(KEY_PROTOCOL)]
        assert self._key is not None
        return any(hmac.compare_digest(_digest(key), self._key) for key in keys)


async def mark(request: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers that bind browsers; a signal of the application."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if not request.path.startswith(OPEN_FOLDER):
        response.headers.setdefault("Cache-Control", "no-store")


def _digest(key: str) -> bytes:
    """Digests have one length, so comparing them says nothing about that of the key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
