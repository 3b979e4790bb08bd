"""Damaged input for any reader: seeded mutations of files and JSON, and a child process that reads them under limits.

    with Sandbox(Limits()) as sandbox:
        for kind, data in islice(mutations(original, rng), 100):
            path.write_bytes(data)
            outcome = sandbox.run(read_it, path)      # an importable function of tests/support
            assert outcome.fault is None, (kind, outcome)

`run_isolated` does the same for a command line, one process a case.
"""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import numpy as np

from omni_edge.errors import OmniEdgeError

# Values at which sizes, counts and offsets overflow, by width in bytes.
_NUMBERS = {
    1: (0, 1, 0x7F, 0x80, 0xFF),
    2: (0, 1, 0x7FFF, 0x8000, 0xFFFF),
    4: (0, 1, 2, 1 << 16, 1 << 28, 0x7FFFF024, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
    8: (0, 1, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
}
_HEADER_BYTES = 512
_JSON_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "x", "../..", "\udce4", [], [None], [[1], [2]],
    {}, {"x": 1},
)  # fmt: skip
_POLL_SECONDS = 0.02
_DOCUMENTED_CODES = frozenset({0, 2, 3, 4, 5, 6})
_BUG = re.compile(r"This is a bug|Traceback \(most recent call last\)")


@dataclass(frozen=True)
class Limits:
    """What one case may take: seconds, and bytes of resident memory."""

    seconds: float = 20.0
    memory: int = 2 << 30


@dataclass(frozen=True)
class Outcome:
    """How one case ended.

    Attributes:
        refused: the documented error's name and text, or "" where the input was accepted.
        fault: what must not happen (a crash, a hang, too much memory, an undocumented error), or None.
        stderr: what the case wrote to file descriptor 2.
        seconds: how long it took.
    """

    refused: str
    fault: str | None
    stderr: str
    seconds: float


def mutations(data: bytes, rng: np.random.Generator, donors: Sequence[bytes] = ()) -> Iterator[tuple[str, bytes]]:
    """Endless damaged versions of `data`, each with the name of what was done to it.

    Args:
        data: the whole original, at least 1 byte.
        rng: the only source of chance.
        donors: other files whose parts are spliced in.
    """
    kinds = [_flip, _flip_header, _number, _number_header, _truncate, _remove, _repeat, _blank]
    while True:
        choice = int(rng.integers(len(kinds) + bool(donors)))
        if choice == len(kinds):
            donor = donors[int(rng.integers(len(donors)))]
            first, second = _place(data, rng), _place(donor, rng)
            yield "splice", data[:first] + donor[second:]
        else:
            yield kinds[choice].__name__[1:], kinds[choice](data, rng)


def json_mutations(value: Any, rng: np.random.Generator) -> Iterator[tuple[str, Any]]:
    """Endless damaged versions of a JSON value, each with the path of what was removed, replaced or added."""
    while True:
        root = copy.deepcopy(value)
        node, path = root, ""
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = keys[int(rng.integers(len(keys)))]
            path += f"/{key}"
            if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.3:
                if rng.random() < 0.3:
                    del node[key]
                    yield f"remove {path}", root
                else:
                    new = copy.deepcopy(_JSON_VALUES[int(rng.integers(len(_JSON_VALUES)))])
                    node[key] = new
                    yield f"{path} = {new!r}", root
                break
            node = node[key]
        if not path:
            return


def _place(data: bytes, rng: np.random.Generator, end: int | None = None) -> int:
    return int(rng.integers(max(min(len(data), end or len(data)), 1)))


def _flip(data: bytes, rng: np.random.Generator, end: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 17))):
        changed[_place(data, rng, end)] ^= int(rng.integers(1, 256))
    return bytes(changed)


def _flip_header(data: bytes, rng: np.random.Generator) -> bytes:
    return _flip(data, rng, _HEADER_BYTES)


def _number(data: bytes, rng: np.random.Generator, end: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        width = int(rng.choice(list(_NUMBERS)))
        value = _NUMBERS[width][int(rng.integers(len(_NUMBERS[width])))]
        place = _place(data, rng, end)
        changed[place : place + width] = value.to_bytes(width, "little" if rng.random() < 0.5 else "big")
    return bytes(changed[: len(data)])


def _number_header(data: bytes, rng: np.random.Generator) -> bytes:
    return _number(data, rng, _HEADER_BYTES)


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)]


def _span(data: bytes, rng: np.random.Generator) -> slice:
    start = _place(data, rng)
    return slice(start, start + int(rng.integers(1, max(len(data) // 4, 2))))


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    span = _span(data, rng)
    return data[: span.start] + data[span.stop :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    span = _span(data, rng)
    return data[: span.stop] + data[span] * int(rng.integers(1, 4)) + data[span.stop :]


def _blank(data: bytes, rng: np.random.Generator) -> bytes:
    span = _span(data, rng)
    fill = rng.bytes(1) if rng.random() < 0.5 else b"\x00"
    return data[: span.start] + fill * len(data[span]) + data[span.stop :]


class Sandbox:
    """A child process that runs functions under limits, and is replaced when a case brings it down.

    One process takes many cases, since its imports cost more than most of them. Its working directory, environment and
    module path are the parent's.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._process: Any = None
        self._stderr: IO[bytes] | None = None
        self._door: Connection | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def run(self, function: Callable[..., object], *arguments: object) -> Outcome:
        """Runs `function(*arguments)`; both must be picklable. A documented error is a good end, as returning is."""
        if self._process is None:
            self._start()
        assert self._door
        assert self._stderr
        self._stderr.seek(0, os.SEEK_END)
        before = self._stderr.tell()
        start = time.perf_counter()
        self._door.send((function, arguments))
        refused, fault = self._await(start)
        self._stderr.seek(before)
        stderr = self._stderr.read().decode("utf-8", "replace")
        if fault:
            self._stop()
        return Outcome(refused, fault, stderr, time.perf_counter() - start)

    def _await(self, start: float) -> tuple[str, str | None]:
        assert self._door
        while not self._door.poll(_POLL_SECONDS):
            if time.perf_counter() - start > self._limits.seconds:
                return "", f"no end after {self._limits.seconds:.0f} s"
            resident = _resident(self._process.pid)
            if resident > self._limits.memory:
                return "", f"{resident / 2**20:.0f} MiB of memory"
        try:
            refused, fault, peak = self._door.recv()
        except EOFError:
            self._process.join()
            return "", f"the process died (exit code {self._process.exitcode})"
        if not fault and peak > self._limits.memory:
            fault = f"{peak / 2**20:.0f} MiB of memory"
        return refused, fault

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 -- `_stop` closes it
        self._door, inner = context.Pipe()
        handle = reduction.DupFd(self._stderr.fileno()) if os.name == "posix" else None
        self._process = context.Process(target=_serve, args=(inner, handle), daemon=True)
        self._process.start()
        inner.close()
        self._door.recv()  # its imports are done: what a case takes is counted from here

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._door is not None:
            self._door.close()
        if self._stderr is not None:
            self._stderr.close()


def _serve(door: Connection, stderr: Any) -> None:
    """The child: takes functions until the parent is gone."""
    if stderr is not None:
        os.dup2(stderr.detach(), 2)
    door.send("ready")
    while True:
        try:
            function, arguments = door.recv()
        except EOFError:
            return
        refused, fault = "", None
        try:
            function(*arguments)
        except OmniEdgeError as error:
            refused = f"{type(error).__name__}: {error}"
            if _BUG.search(refused):
                fault = refused
        except BaseException as error:
            fault = f"{type(error).__name__}: {error}"
        door.send((refused, fault, _peak()))


def run_isolated(command: Sequence[object], limits: Limits = Limits(), **options: Any) -> Outcome:
    """Runs a command line as one case: any documented exit code is a good end.

    Args:
        command: program and arguments.
        limits: as for `Sandbox`; the memory is that of the process itself.
        options: of `subprocess.Popen`, such as `cwd` and `env`.
    """
    start = time.perf_counter()
    fault = None
    with tempfile.TemporaryFile() as stderr:
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "start_new_session": True, **options}
        process = subprocess.Popen([str(word) for word in command], stderr=stderr, **options)
        while process.poll() is None and fault is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            if time.perf_counter() - start > limits.seconds:
                fault = f"no end after {limits.seconds:.0f} s"
            elif (resident := _resident(process.pid)) > limits.memory:
                fault = f"{resident / 2**20:.0f} MiB of memory"
        if fault:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        stderr.seek(0)
        text = stderr.read().decode("utf-8", "replace")
    if fault is None and code not in _DOCUMENTED_CODES:
        fault = f"exit code {code}"
    if fault is None and _BUG.search(text):
        fault = "a traceback or a bug report"
    return Outcome(text.strip() if code else "", fault, text, time.perf_counter() - start)


def _resident(pid: int) -> int:
    """Bytes of resident memory now; 0 where the system does not say or the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _peak() -> int:
    """Bytes of resident memory that this process had at most."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
