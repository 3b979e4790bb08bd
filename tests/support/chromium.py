"""Chromium without a window, driven by its DevTools protocol, with a file as its microphone and a moving test picture
as its camera.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)

_OPTIONS = (
    "--headless=new",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)
# A file of the profile: the port, and then the browser's own address.
_PORT_FILE = "DevToolsActivePort"


class BrowserPage:
    """One page of the browser.

    Args:
        socket: its DevTools connection.

    Attributes:
        faults: exceptions of the page and errors of its console, as JSON.
        sent, received: events on its WebSockets, in order.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.faults: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.received: list[dict[str, Any]] = []
        for domain in ("Runtime", "Log", "Page", "Network", "DOM"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(30))
            if message.get("id") == self._last:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.faults.append(json.dumps(params))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.faults.append(json.dumps(params))
            case "Network.webSocketFrameSent":
                self.sent.append(json.loads(params["response"]["payloadData"]))
            case "Network.webSocketFrameReceived":
                self.received.append(json.loads(params["response"]["payloadData"]))

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, or of the promise that it is."""
        wanted = {"awaitPromise": True, "userGesture": True, "returnByValue": True}
        result = self.command("Runtime.evaluate", expression=script, **wanted)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> Any:
        """The value of an expression, once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script} is still {value!r}; the page: {self.text('body')}"
            time.sleep(0.05)
        return value

    def event(self, kind: str, start: int = 0, seconds: float = 20) -> dict[str, Any]:
        """The first event of a type that was received behind the first `start` ones."""
        end = time.monotonic() + seconds
        while True:
            for event in self.received[start:]:
                if event["type"] == kind:
                    return event
            kinds = {event["type"] for event in self.received[start:]}
            assert time.monotonic() < end, f"no {kind} among {kinds}"
            self.run("0")
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """The text that an element shows."""
        return str(self.run(f"document.querySelector({selector!r}).innerText"))

    def click(self, selector: str) -> None:
        """Clicks an element."""
        self.run(f"document.querySelector({selector!r}).click()")

    def choose_file(self, selector: str, file: Path) -> None:
        """Chooses a file for an <input>."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def screenshot(self, file: Path) -> None:
        """Writes what the page shows as PNG."""
        file.write_bytes(base64.b64decode(self.command("Page.captureScreenshot")["data"]))

    def open(self, address: str, script: str = "") -> None:
        """Opens an address; `script` runs in front of those of the page."""
        self.command("Page.addScriptToEvaluateOnNewDocument", source=script)
        self.command("Page.navigate", url=address)


class Browser:
    """A running browser.

    Args:
        port: of its DevTools.
    """

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}/json/new?about:blank"

    @contextmanager
    def page(self) -> Iterator[BrowserPage]:
        """An empty page."""
        with urllib.request.urlopen(urllib.request.Request(self._address, method="PUT"), timeout=20) as answer:
            found = json.load(answer)
        with connect(found["webSocketDebuggerUrl"], max_size=None) as socket:
            page = BrowserPage(socket)
            yield page
            page.command("Page.close")


@contextmanager
def chromium(folder: Path, microphone: Path) -> Iterator[Browser]:
    """A browser.

    Args:
        folder: for its profile.
        microphone: a WAV file, which each recording plays once from its start.
    """
    assert PROGRAM is not None
    options = [*_OPTIONS, f"--use-file-for-fake-audio-capture={microphone}%noloop", f"--user-data-dir={folder}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([PROGRAM, *options, "about:blank"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while not (lines := (folder / _PORT_FILE).read_text() if (folder / _PORT_FILE).exists() else "").count("\n"):
            assert process.poll() is None, (folder / "log.txt").read_text("utf-8", "replace")[-2000:]
            assert time.monotonic() < end, "the browser does not start"
            time.sleep(0.05)
        yield Browser(int(lines.split()[0]))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
