"""Operators of our own in C, compiled on the machine that uses them (docs/kernels.md).

A bundle's graphs define these operators as functions over standard ones, so they run everywhere. Where the operators
are compiled (`omni-edge prepare`, which needs a C compiler), onnxruntime calls them instead. The library lies in the
cache folder, one for each kind of processor and version of the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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
# errno and floating-point exceptions are never read, so loops that could set them may be vectorized.
_FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-shared", "-fPIC")
# The compiler gets the first one it accepts: x86 and new compilers for ARM, old ones for ARM, any other.
_TARGETS = (("-march=native",), ("-mcpu=native",), ())
_COMPILER_SECONDS = 600  # a slow or busy machine takes minutes
# The linear layers, which hold almost all weights of the graphs that contain them.
_READS_IN_PLACE = b"LinearNBits"


def switched_off() -> bool:
    """Whether $OMNI_EDGE_KERNELS is 0: nothing is compiled, and a compiled library is not used."""
    return os.environ.get(_SWITCH) == "0"


def compiled() -> Path | None:
    """The library of compiled operators; None if there is none, or if they are `switched_off`."""
    if switched_off():
        return None
    try:
        path = _path()
    except ResourceError:
        return None  # without a cache folder nothing can have been compiled
    return path if path.is_file() else None


def register(options: ort.SessionOptions) -> None:
    """Registers the compiled operators, if there are any, with a session.

    Raises:
        ResourceError: the library does not load.
    """
    if path := compiled():
        _register(options, path)


def _register(options: ort.SessionOptions, path: Path) -> None:
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime raises undocumented exceptions of its own
        raise ResourceError(
            f"The compiled operators {path} do not load: {str(error).splitlines()[0][:200]}. Delete that file; "
            "`omni-edge prepare` makes it again."
        ) from None


def build() -> Path | None:
    """Compiles the operators for this machine if that is not done already, and removes libraries of other versions.

    Returns:
        the library; None if there is no C compiler, or if the operators are `switched_off`.

    Raises:
        ResourceError: the compiler fails, or the disk is full.
    """
    if switched_off():
        return None
    path = _path()
    if path.is_file():
        return path
    compiler = find_compiler()
    if compiler is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be compiling the same: wait, and take its library.
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
        compile_library(compiler, sorted(_FOLDER.glob("*.c")), made)
        _register(ort.SessionOptions(), made)
        made.replace(path)


def read_in_place(graph: Path) -> bool:
    """Whether the compiled operators, if there are any, read a graph's weights from its mapped file.

    The library contains the operator's name only if the processor has the instructions that it needs.
    """
    path = compiled()
    return path is not None and all(_READS_IN_PLACE in file.read_bytes() for file in (path, graph))


def find_compiler() -> str | None:
    """The command of a C compiler: $CC, or the first one on the path; None if there is none."""
    named = os.environ.get("CC")
    return named or next((found for name in _COMPILERS if (found := shutil.which(name))), None)


def compile_library(compiler: str, sources: Sequence[Path], library: Path, flags: Sequence[str] = ()) -> None:
    """Compiles C sources for this machine's processor into a shared library, with `flags` beside the usual ones.

    Raises:
        ResourceError: the compiler fails.
    """
    reason = ""
    for target in _TARGETS:
        command = [*compiler.split(), *_FLAGS, *flags, *target, *map(str, sources), "-lm", "-o", str(library)]
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
        f"{_SWITCH}=0 to run without them."
    )


def _path() -> Path:
    suffix = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    return cache_root() / f"{_PREFIX}{_version()}{suffix}"


@cache
def _version() -> str:
    """A name for the sources, the flags and the processor."""
    sources = [path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]"))]
    return digest(b"".join([processor().encode(), *(flag.encode() for flag in _FLAGS), *sources]))
