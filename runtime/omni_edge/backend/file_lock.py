"""A lock between processes: a file that one of them holds while it writes a folder."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_SECONDS = 0.1
_BUSY = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
# Some network file systems have no locks: the work then goes on without one.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# Windows locks bytes, which nobody else can read then: a byte far behind the process id.
_LOCKED_BYTE = 1 << 20


@contextmanager
def locked(path: Path, on_busy: Callable[[int | None], None]) -> Iterator[bool]:
    """Holds the lock file `path` while the block runs; yields whether another process held it before.

    The operating system releases the lock of a process that ends, however it ends: no lock is ever stale.

    Args:
        path: the lock file; it is made, holds the process id, and is removed at the end.
        on_busy: called once with the holder's process id (None: unknown). It raises to give up; else we wait.

    Raises:
        OSError: the file cannot be made, or a file of that name is not a lock.
    """
    waited = False
    while (handle := _try_to_hold(path)) is None:
        if not waited:
            waited = True
            on_busy(_process_id(path))
        time.sleep(_POLL_SECONDS)
    try:
        yield waited
    finally:
        # Windows removes no open file; elsewhere a file that is removed first cannot be another process's lock.
        if sys.platform == "win32":
            os.close(handle)
        with contextlib.suppress(OSError):
            path.unlink()
        if sys.platform != "win32":
            os.close(handle)


def _try_to_hold(path: Path) -> int | None:
    """The open, locked file; None where another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if not re.fullmatch(rb"\d*", os.read(handle, 64)):
                raise FileExistsError(errno.EEXIST, "there is a file of that name", str(path))
            if not _lock(handle):
                os.close(handle)
                return None
            if _is_at(handle, path):
                os.ftruncate(handle, 0)
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, str(os.getpid()).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        # Its holder has removed the file meanwhile.
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether `path` still is the open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _process_id(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return None
