"""Single keys of a terminal, read on a thread of their own."""

from __future__ import annotations

import importlib
import os
import select
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

_POLL_SECONDS = 0.1
# Ctrl-D, or the end of the terminal.
END = "\x04"


class Keys:
    """Within it, each key is handed on as it is pressed. Ctrl-C stays what it is.

    Args:
        pressed: gets the character, on the reader's thread.
    """

    def __init__(self, pressed: Callable[[str], None]) -> None:
        self._pressed = pressed
        self._ended = threading.Event()
        self._before: Any = None
        self._terminal: Any = None
        self._thread = threading.Thread(target=self._read, name="keys", daemon=True)

    def __enter__(self) -> Keys:
        if os.name != "nt":
            self._terminal = importlib.import_module("termios")
            self._before = self._terminal.tcgetattr(sys.stdin)
            self._single()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._before is not None:
            self._terminal.tcsetattr(sys.stdin, self._terminal.TCSADRAIN, self._before)

    def line(self, prompt: str) -> str:
        """A whole line, with the terminal's own editing; called from `pressed`."""
        if self._before is not None:
            self._terminal.tcsetattr(sys.stdin, self._terminal.TCSADRAIN, self._before)
        try:
            return input(prompt)
        except EOFError:
            return ""
        finally:
            if self._before is not None and not self._ended.is_set():
                self._single()

    def _single(self) -> None:
        importlib.import_module("tty").setcbreak(sys.stdin)

    def _read(self) -> None:
        while not self._ended.is_set():
            key = self._windows_key() if os.name == "nt" else self._posix_key()
            if key:
                self._pressed(key)
            if key == END:
                return

    def _posix_key(self) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
        if not ready:
            return ""
        # Nothing to read: the terminal is gone.
        return os.read(sys.stdin.fileno(), 1).decode("utf-8", "replace") or END

    def _windows_key(self) -> str:
        msvcrt: Any = importlib.import_module("msvcrt")
        if msvcrt.kbhit():
            return str(msvcrt.getwch())
        self._ended.wait(_POLL_SECONDS)
        return ""
