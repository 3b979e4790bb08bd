"""Silence for libraries that print to stderr themselves: what a user reads there is written by this project."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_LOG_SILENT = 0
_lock = threading.Lock()
_depth = 0
_nowhere: Any = None
_before: Any = None


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, C libraries that print with `fprintf(stderr, ...)`, as libjpeg and libpng do, print to nowhere.

    C's `stderr` is a variable, which is pointed elsewhere; file descriptor 2 stays as it is. So whatever Python, this
    project or another thread's logging writes to descriptor 2 arrives as ever. Only glibc allows this; elsewhere
    nothing happens.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _depth, _nowhere, _before  # noqa: PLW0603 -- C's stderr is one per process
    with _lock:
        _depth += 1
        variable = _stderr_variable()
        if _depth > 1 or variable is None:
            return
        if _nowhere is None:
            library = ctypes.CDLL(None)
            library.fopen.restype = ctypes.c_void_p
            # Never closed: a thread may still hold the pointer.
            _nowhere = library.fopen(os.devnull.encode(), b"w")
        if _nowhere:
            _before, variable.value = variable.value, _nowhere


def _leave() -> None:
    global _depth, _before  # noqa: PLW0603
    with _lock:
        _depth -= 1
        if not _depth and _before is not None:
            variable = _stderr_variable()
            if variable is not None:
                variable.value = _before
            _before = None


def _stderr_variable() -> ctypes.c_void_p | None:
    """C's `stderr`; None where it is no variable that may be set."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        return ctypes.c_void_p.in_dll(ctypes.CDLL(None), "stderr")
    except (ValueError, OSError):
        return None


class silent_log:  # noqa: N801 -- a context manager, named as a function
    """Turns off OpenCV's own log, and back to its level afterwards."""

    def __init__(self, cv2: Any) -> None:
        # Version 5 moved the functions into a module of their own.
        self._log = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = self._log.getLogLevel()
        self._log.setLogLevel(_LOG_SILENT)

    def __exit__(self, *error: object) -> None:
        self._log.setLogLevel(self._before)
