"""The page at `/`: what it consists of, and that nothing of it comes from elsewhere."""

from __future__ import annotations

import re
from http.client import HTTPConnection

from support.served import Served


def fetch(server: Served, path: str) -> tuple[int, str, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text, dict(response.getheaders())


def test_the_page_has_all_its_files_and_no_others(server: Served) -> None:
    status, page, headers = fetch(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    texts = [page]
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        status, text, headers = fetch(server, path)
        assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
        texts.append(text)
    imported = re.findall(r'"(/page/\w+\.js)"', "".join(texts))
    assert {"/page/realtime.js", "/page/sound.js"} <= set(imported)
    texts += [fetch(server, path)[1] for path in imported]
    assert [text for text in texts if re.search(r"(https?:)?//\w+\.\w+", text)] == []
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/nothing.js"):
        assert fetch(server, path)[0] == 404
