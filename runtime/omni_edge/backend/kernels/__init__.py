"""Operators of our own in C, compiled on the machine that uses them.

A bundle's graphs define these operators as functions over standard ones, so they run everywhere; where the operators
have been compiled (`omni-edge prepare`, which needs a C compiler), onnxruntime calls them instead. The library lies in
the cache folder, one for each kind of processor and version of the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from omni_edge.backend.file_lock import locked
from omni_edge.backend.machine import cache_root, digest, processor
from omni_edge.backend.onnx_runtime import ort
from omni_edge.errors import ResourceError

_FOLDER = Path(__file__).parent
_PREFIX = "kernels-"
_LOCK_NAME = "compiling.lock"
_SWITCH = "OMNI_EDGE_KERNELS"
_COMPILERS = ("cc", "gcc", "clang")
# Nobody asks for errno or floating-point exceptions, so loops that could raise them may be vectorized.
_FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-shared", "-fPIC")
# The first that the compiler takes: x86 and newer compilers for ARM, older ones for ARM, any other.
_TARGETS = (("-march=native",), ("-mcpu=native",), ())
_COMPILER_SECONDS = 120
# The linear layers, which hold almost all weights of the graphs they occur in.
_READS_IN_PLACE = b"LinearNBits"


def switched_off() -> bool:
    """Whether $OMNI_EDGE_KERNELS is 0: nothing is compiled, and what was is left alone."""
    return os.environ.get(_SWITCH) == "0"


def compiled() -> Path | None:
    """The compiled operators; None where nobody has compiled them, or where they are `switched_off`."""
    path = _path()
    return path if path.is_file() and not switched_off() else None


def register(options: ort.SessionOptions) -> None:
    """Makes the compiled operators, if there are any, known to a session.

    Raises:
        ResourceError: the library does not load.
    """
    if path := compiled():
        _register(options, path)


def _register(options: ort.SessionOptions, path: Path) -> None:
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime raises its own, undocumented family
        raise ResourceError(
            f"The compiled operators {path} do not load: {str(error).splitlines()[0][:200]}. Delete that file; "
            "`omni-edge prepare` makes it again."
        ) from None


def build() -> Path | None:
    """Compiles the operators for this machine, unless that is done already, and removes what other versions left.

    Returns:
        the library; None where there is no C compiler, or where they are `switched_off`.

    Raises:
        ResourceError: the compiler fails, or the disk is full.
    """
    path = _path()
    if switched_off() or path.is_file():
        return compiled()
    compiler = find_compiler()
    if compiler is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process that compiles them now compiles the same: we wait and take what it has made.
        with locked(path.parent / _LOCK_NAME, lambda _: None):
            if not path.is_file():
                _build(compiler, path)
    except OSError as error:
        raise ResourceError(
            f"Compiling into {path.parent} failed: {error.strerror}. Make room, or set OMNI_EDGE_CACHE."
        ) from error
    return path


def _build(compiler: str, path: Path) -> None:
    for other in path.parent.glob(f"{_PREFIX}*"):
        other.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        _compile(compiler, made)
        _register(ort.SessionOptions(), made)
        made.replace(path)


def read_in_place(graph: Path) -> bool:
    """Whether the compiled operators, if there are any, read a graph's weights where they lie in its file.

    A library that was compiled for a processor without what the operator needs does not hold its name.
    """
    path = compiled()
    return path is not None and all(_READS_IN_PLACE in file.read_bytes() for file in (path, graph))


def find_compiler() -> str | None:
    """The command of a C compiler: $CC, or the first that there is; None where there is none."""
    named = os.environ.get("CC")
    return named or next((found for name in _COMPILERS if (found := shutil.which(name))), None)


def _compile(compiler: str, target: Path) -> None:
    reason = ""
    for flags in _TARGETS:
        sources = sorted(str(path) for path in _FOLDER.glob("*.c"))
        command = [*compiler.split(), *_FLAGS, *flags, *sources, "-lm", "-o", str(target)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_COMPILER_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
            break
        if done.returncode == 0:
            return
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
    raise ResourceError(
        f"{compiler} does not compile the operators: {reason[:200]}. Name another compiler in $CC, or set "
        f"{_SWITCH}=0 to do without them."
    )


def _path() -> Path:
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    return cache_root() / f"{_PREFIX}{_version()}{suffix}"


@cache
def _version() -> str:
    """Changes with the sources and with the processor."""
    sources = [path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]"))]
    return digest(b"".join([processor().encode(), *sources]))
