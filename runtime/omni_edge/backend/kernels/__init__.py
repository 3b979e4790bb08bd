"""Operators of our own in C (docs/kernels.md): compiled when the package was built, or on the machine that uses them.

A bundle's graphs define these operators as functions over standard ones, so they run everywhere. Where the operators
are compiled, onnxruntime calls them instead. A wheel brings them for its processors (`prebuilt`). Elsewhere
`omni-edge prepare` compiles them, which needs a C compiler: that library lies in the cache folder, one for each kind of
processor and version of the sources, and goes first.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from omni_edge.backend.file_lock import locked
from omni_edge.backend.kernels import compiler, prebuilt
from omni_edge.backend.machine import cache_root, digest, processor
from omni_edge.backend.onnx_runtime import ort
from omni_edge.errors import ResourceError

_FOLDER = Path(__file__).parent
_PREFIX = "kernels-"
_LOCK_NAME = "compiling.lock"
_SWITCH = "OMNI_EDGE_KERNELS"
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
        return prebuilt.find()  # without a cache folder nothing can have been compiled here
    return path if path.is_file() else prebuilt.find()


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
        raise _does_not_load(path, error) from None


def functions() -> ctypes.CDLL | None:
    """The compiled library's own functions, which `omni_quant` calls; None if there is no library.

    Raises:
        ResourceError: the library does not load.
    """
    path = compiled()
    return None if path is None else _functions(path)


@cache
def _functions(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise _does_not_load(path, error) from None


def _does_not_load(path: Path, error: Exception) -> ResourceError:
    remedy = "Delete that file; `omni-edge prepare` makes it again."
    if path.parent == prebuilt.FOLDER:
        remedy = "Install omni-edge again."
    return ResourceError(f"The compiled operators {path} do not load: {str(error).splitlines()[0][:200]}. {remedy}")


def available() -> bool:
    """Whether `build` can compile: there is a C compiler, and the operators are not `switched_off`."""
    return not switched_off() and compiler.find_compiler() is not None


def build() -> Path | None:
    """Compiles the operators for this machine if they are not compiled yet, and removes libraries of other versions.

    Returns:
        the library; None if there is no C compiler, or if the operators are `switched_off`.

    Raises:
        ResourceError: the compiler fails, or the disk is full.
    """
    if switched_off():
        return None
    if found := compiled():
        return found
    command = compiler.find_compiler()
    if command is None:
        return None
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be compiling the same: wait, and take its library.
        with locked(path.parent / _LOCK_NAME, lambda _: None):
            if not path.is_file():
                _build(command, path)
    except OSError as error:
        raise ResourceError(
            f"Compiling into {path.parent} failed: {error.strerror}. Make room, or set OMNI_EDGE_CACHE."
        ) from error
    return path


def _build(command: str, path: Path) -> None:
    for other in path.parent.glob(f"{_PREFIX}*"):
        other.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        compile_library(command, sorted(_FOLDER.glob("*.c")), made)
        _register(ort.SessionOptions(), made)
        made.replace(path)


def read_in_place(graph: Path) -> bool:
    """Whether the compiled operators, if there are any, read a graph's weights from its mapped file.

    The library contains the operator's name only if the processor has the instructions that it needs.
    """
    path = compiled()
    return path is not None and all(_READS_IN_PLACE in file.read_bytes() for file in (path, graph))


def compile_library(command: str, sources: Sequence[Path], library: Path, flags: Sequence[str] = ()) -> None:
    """Compiles C sources for this machine's processor into a shared library, with `flags` beside the usual ones.

    Raises:
        ResourceError: the compiler fails.
    """
    try:
        compiler.compile_library(command, sources, library, flags)
    except compiler.CompileError as error:
        raise ResourceError(
            f"{command} does not compile the operators: {str(error)[:200]}. Name another compiler in $CC, or set "
            f"{_SWITCH}=0 to run without them."
        ) from None


def _path() -> Path:
    return cache_root() / f"{_PREFIX}{_version()}{prebuilt.SUFFIX}"


@cache
def _version() -> str:
    """A name for the sources, the flags and the processor."""
    sources = [path.read_bytes() for path in sorted(_FOLDER.glob("*.[ch]"))]
    return digest(b"".join([processor().encode(), *(flag.encode() for flag in compiler.FLAGS), *sources]))
