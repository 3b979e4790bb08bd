"""Where a medium's bytes come from: a file, or a pipe that is first copied to the disk."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from omni_edge.errors import MediaError

# Half an hour of uncompressed stereo at 48 kHz fits.
_LARGEST_PIPE_BYTES = 512 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """An opened medium.

    Attributes:
        name: its name in messages.
        file: seekable, at its start.
        size: bytes, at least 1.
    """

    name: str
    file: IO[bytes]
    size: int


@contextmanager
def open_source(origin: Path | str | IO[bytes]) -> Iterator[Source]:
    """Opens a file, a named pipe, or takes an open binary stream such as `sys.stdin.buffer`.

    Raises:
        MediaError: it does not exist, cannot be read, is a folder, is empty, or is a pipe of more than 512 MiB.
    """
    if not isinstance(origin, Path | str):
        with _seekable(origin, "The pipe") as source:
            yield source
        return
    # Linux names are bytes, and those need not be UTF-8; a message has to be.
    name = str(origin).encode("utf-8", "backslashreplace").decode("utf-8")
    with _open(Path(origin), name) as file, _seekable(file, name) as source:
        yield source


def _open(path: Path, name: str) -> IO[bytes]:
    try:
        if path.is_dir():
            raise MediaError(f"{name} is a folder, no file. Name a file in it.")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise MediaError(f"There is no file {name}. Check the path.") from None
    except PermissionError:
        raise MediaError(f"{name} may not be read (permission denied). Change its permissions, or copy it.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise MediaError(f"{name} cannot be opened ({_reason(error)}). Check the path.") from None


@contextmanager
def _seekable(file: IO[bytes], name: str) -> Iterator[Source]:
    """The file itself where it is a regular one, else a copy: many formats have to be read out of order."""
    if _is_regular(file):
        yield _measured(file, name)
        return
    with tempfile.TemporaryFile() as copy:
        for block in _blocks(file, name):
            copy.write(block)
            if copy.tell() > _LARGEST_PIPE_BYTES:
                raise MediaError(f"{name} gives more than {_LARGEST_PIPE_BYTES >> 20} MiB. Save it and name the file.")
        copy.seek(0)
        yield _measured(copy, name)


def _is_regular(file: IO[bytes]) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError):
        return False  # a stream without a descriptor, or a closed one: reading it says more


def _blocks(file: IO[bytes], name: str) -> Iterator[bytes]:
    while True:
        try:
            block = file.read(_BLOCK_BYTES)
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            raise MediaError(f"{name} cannot be read ({_reason(error)}). Save it and name the file.") from None
        if not block:
            return
        yield block


def _measured(file: IO[bytes], name: str) -> Source:
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    if size <= 0:
        raise MediaError(f"{name} is empty (0 bytes). Copy or record it again.")
    return Source(name, file, size)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
