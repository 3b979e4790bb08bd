"""stdin, stdout and stderr as the commands need them, whatever the shell has made of them."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path
from typing import TextIO, cast

from omni_edge.errors import UsageError

_MODES = ("r", "w", "w")
STDOUT = 1


def set_up_streams() -> None:
    """Opens closed streams on the null device and makes stdin and stdout UTF-8.

    A closed descriptor would be given to the next file that is opened, and text would be written into that file.
    Lines end with LF, CRLF or CR. Bytes that are not UTF-8 become surrogates, which `is_text` finds.
    """
    opened = [_reopened(number, mode) for number, mode in enumerate(_MODES)]
    sys.stdin, sys.stdout, sys.stderr = (
        new or old for new, old in zip(opened, (sys.stdin, sys.stdout, sys.stderr), strict=True)
    )
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape", newline=None)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")


def is_text(value: str) -> bool:
    """Whether `value` is Unicode text: False where bytes that are not UTF-8 came in."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_stdin() -> str:
    """Everything on stdin; a byte that is not UTF-8 is a surrogate."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin.read()


def is_stdout(path: Path) -> bool:
    """Whether writing to `path` means stdout: "-", or the file or pipe that stdout is."""
    if str(path) == "-":
        return True
    try:
        named, own = path.stat(), os.fstat(STDOUT)
    except OSError:
        return False
    return os.path.samestat(named, own) and not stat.S_ISCHR(own.st_mode)


def stdout_for_bytes() -> io.RawIOBase:
    """stdout as a binary file without a buffer, open independently of `sys.stdout`.

    Raises:
        UsageError: stdout is a terminal.
    """
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal, where a WAV file is of no use. Pipe it, or name a file with -o.")
    return io.FileIO(os.dup(STDOUT), "wb")


def _reopened(number: int, mode: str) -> TextIO | None:
    """The null device as descriptor `number` where that is closed."""
    try:
        os.fstat(number)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        return cast("TextIO", open(number, mode, encoding="utf-8"))
    return None
