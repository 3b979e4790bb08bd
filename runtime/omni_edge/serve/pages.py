"""The page at `/`, which talks to `/v1/realtime`: files of this package, nothing from elsewhere."""

from __future__ import annotations

from importlib import resources

from aiohttp import web

from omni_edge.serve.faults import RequestError
from omni_edge.serve.guard import OPEN_FOLDER

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class Page:
    """The handlers of the page's files, which are read once."""

    def __init__(self) -> None:
        folder = resources.files("omni_edge.serve") / "page"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    def add_to(self, app: web.Application) -> None:
        """Adds the addresses."""
        app.router.add_get("/", self.index)
        app.router.add_get(OPEN_FOLDER + "{name}", self.file)

    async def index(self, request: web.Request) -> web.Response:
        """The page itself."""
        return self._answer("index.html")

    async def file(self, request: web.Request) -> web.Response:
        """One of its files."""
        return self._answer(request.match_info["name"])

    def _answer(self, name: str) -> web.Response:
        data, kind = self._files.get(name), _TYPES.get(name.rpartition(".")[2])
        if data is None or kind is None:
            raise RequestError("There is no such file.", status=404, code="not_found")
        return web.Response(body=data, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})
