"""A server in a process of its own, and what its metrics say."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

_PROGRAM = "from omni_cli.app import main; main()"
_START_SECONDS = 120
KEY = "a-key-of-the-benchmark-alone"


class ServerProcess:
    """A running server.

    Args:
        process: its process.

    Attributes:
        log: the lines of its stderr so far.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ready = threading.Event()
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(_START_SECONDS) or process.poll() is not None:
            raise SystemExit("The server does not start:\n" + "\n".join(self.log))
        text = "\n".join(self.log)
        address = re.search(r"Serving on (\S+);", text)
        wyoming = re.search(r"served on port (\d+)", text)
        assert address is not None
        self.address = address[1]
        port = urlsplit(address[1]).port
        assert port is not None
        self.port = port
        self.wyoming_port = int(wyoming[1]) if wyoming else None

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line.rstrip())
            # The line about Wyoming comes behind that about the address.
            if "served on port" in line or ("Serving on" in line and "--wyoming" not in self._process.args):
                self._ready.set()
        self._ready.set()

    def metrics(self) -> dict[str, float]:
        """`/metrics`, by name with labels."""
        request = urllib.request.Request(f"{self.address}/metrics", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


@contextmanager
def server_process(model: Path | None, *words: str) -> Iterator[ServerProcess]:
    """Serves a bundle on a free port.

    Args:
        model: the bundle; None: the built-in model.
        words: further options of `omni-edge serve`.
    """
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key.txt"
        key.touch(0o600)
        key.write_text(KEY)
        named = [] if model is None else ["--model", str(model)]
        command = [
            sys.executable,
            "-c",
            _PROGRAM,
            "serve",
            *named,
            "--no-prepare",
            "--port",
            "0",
            "--api-key-file",
            str(key),
            *words,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        with process:
            try:
                yield ServerProcess(process)
            finally:
                process.terminate()
                process.wait(20)
            if process.returncode and sys.platform != "win32":
                raise SystemExit(f"The server ended with status {process.returncode}.")
