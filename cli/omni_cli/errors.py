"""How every command behaves: one line per error, one exit code per kind of error, Ctrl-C as 130.

    0    done
    1    something went wrong while running
    2    usage: an unknown option, voice or setting
    3    the checkpoint, the bundle or a saved conversation
    4    sound, picture or video
    5    loudspeaker, microphone or camera
    6    memory, disk or hardware
    7    the server: address, port, certificate
    130  Ctrl-C

stdout carries the answer, stderr everything else. A traceback appears only with `--debug`.
"""

from __future__ import annotations

import errno
import functools
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec

import typer

from omni_cli.standard_streams import is_text
from omni_edge.errors import OmniEdgeError, ResourceError, UsageError

P = ParamSpec("P")

INTERRUPTED = 130
_DISK_FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Wraps a command: whatever it raises becomes a message on stderr and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            _check_text(kwargs)
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise  # typer's own ways to leave
        except Exception as error:
            if kwargs.get("debug"):
                traceback.print_exc()
            raise typer.Exit(report(error)) from None

    return wrapper


def _check_text(options: Mapping[str, object]) -> None:
    """Refuses options with bytes that are not UTF-8; a file may have any name that the system allows."""
    for name, value in options.items():
        texts = value if isinstance(value, list) else [value]
        if not all(is_text(text) for text in texts if isinstance(text, str)):
            raise UsageError(f"The value of {name.replace('_', '-')} is not UTF-8 text. Write it in UTF-8.")


def report(error: Exception) -> int:
    """Prints what `error` means to the user; returns the exit code."""
    known = explain(error)
    typer.echo(f"error: {known}", err=True)
    return known.exit_code


def explain(error: Exception) -> OmniEdgeError:
    """`error` as one of the project's own; what nobody foresaw says how to report it."""
    if isinstance(error, OmniEdgeError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError("Not enough memory. Close other programs, or use a smaller input or --context.")
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        where = f" at {error.filename}" if error.filename else ""
        return ResourceError(f"The disk is full{where} ({error.strerror}). Free some space, or write elsewhere.")
    if isinstance(error, OSError):
        return OmniEdgeError(f"{error}. Check the path and its permissions.")
    return OmniEdgeError(f"{type(error).__name__}: {error}. This is a bug: run again with --debug and report it.")


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Inside, the first Ctrl-C calls `stop` (to end in good order) and the second one ends the program."""

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
