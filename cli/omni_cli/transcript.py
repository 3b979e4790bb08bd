"""The transcript of a conversation: a text file that grows by whole lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from omni_cli.errors import explain
from omni_edge.errors import OmniEdgeError, UsageError


def _now() -> datetime:
    return datetime.now().astimezone()


class Transcript:
    """What was said and answered, each with the time at which it began.

    A file that exists is continued. What cannot be written now is written with the next line, so a full disk loses
    nothing once there is space again.

    Args:
        path: the file.
        warn: gets a sentence for the user when the file cannot be written.
        now: the time, with its zone.

    Attributes:
        warn: as given; a screen puts its own in.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: Path, warn: Callable[[str], None], now: Callable[[], datetime] = _now) -> None:
        self._path, self.warn, self._now = path, warn, now
        self._waiting = b""
        self._failed = False
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 -- closed by `close`
        except OSError as error:
            raise UsageError(
                f"{path} cannot be written ({error.strerror}). Choose another file with --transcript."
            ) from None
        if self._half_a_line():
            self._waiting = b"\n"

    def add(self, speaker: str, text: str, ago: float = 0.0) -> None:
        """One turn.

        Args:
            speaker: "user" or "assistant", and what else there is to say of the turn.
            text: its words; further lines are indented.
            ago: seconds since the turn began.
        """
        began = (self._now() - timedelta(seconds=ago)).isoformat(timespec="milliseconds")
        self._waiting += f"{began} {speaker}: {text.strip()}".replace("\n", "\n  ").encode() + b"\n"
        try:
            self._write()
        except OSError as error:
            if not self._failed:
                self._failed = True
                self.warn(f"warning: The transcript waits, and the conversation goes on. {explain(error)}")

    def close(self) -> None:
        """Ends the file.

        Raises:
            OmniEdgeError: a part could not be written.
        """
        try:
            self._write()
        except OSError as error:
            raise _unwritten(self._path, error) from None
        finally:
            self._file.close()

    def _write(self) -> None:
        """Writes what waits: all of it, or nothing."""
        if not self._waiting:
            return
        size = os.fstat(self._file.fileno()).st_size
        rest = memoryview(self._waiting)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise
        self._waiting, self._failed = b"", False

    def _half_a_line(self) -> bool:
        """Whether the file ends within a line, as after a power cut."""
        with suppress(OSError):
            self._file.seek(-1, os.SEEK_END)
            return self._file.read(1) != b"\n"
        return False


def _unwritten(path: Path, error: OSError) -> OmniEdgeError:
    known = explain(error)
    return type(known)(f"The end of the transcript {path} is missing. {known}")
