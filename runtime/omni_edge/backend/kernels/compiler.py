"""Compiles C sources into a shared library. No imports but the standard library's: the build of a wheel uses it too."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

_COMPILERS = ("cc", "gcc", "clang")
# errno and floating-point exceptions are never read, so loops that could set them may be vectorized.
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-fPIC")
# The compiler gets the first one it accepts: x86 and new compilers for ARM, old ones for ARM, any other.
THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())
_COMPILER_SECONDS = 600  # a slow or busy machine takes minutes


class CompileError(Exception):
    """The compiler fails; the text is its first complaint."""


def find_compiler() -> str | None:
    """The command of a C compiler: $CC, or the first one on the path; None if there is none."""
    named = os.environ.get("CC")
    return named or next((found for name in _COMPILERS if (found := shutil.which(name))), None)


def compile_library(
    compiler: str,
    sources: Sequence[Path],
    library: Path,
    flags: Sequence[str] = (),
    targets: Sequence[Sequence[str]] | None = None,
) -> None:
    """Compiles C sources into a shared library, as many at a time as there are cores.

    Args:
        compiler: a command.
        sources: the files.
        library: written.
        flags: beside the usual ones.
        targets: flags that name a processor; the first ones that the compiler accepts are used. None: this processor.

    Raises:
        CompileError: the compiler fails with all of them.
    """
    *others, last = THIS_PROCESSOR if targets is None else targets
    for target in others:
        with suppress(CompileError):
            _compile(compiler.split(), sources, library, [*FLAGS, *flags, *target])
            return
    _compile(compiler.split(), sources, library, [*FLAGS, *flags, *last])


def _compile(compiler: list[str], sources: Sequence[Path], library: Path, flags: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(Path(name) / f"{source.stem}.o") for source in sources]
        commands = [
            [*compiler, *flags, "-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)
        ]
        for _ in pool.map(_run, commands):
            pass
        # With -ffast-math the linker would add code that ends denormal numbers in the thread that loads the library.
        linking = [flag for flag in flags if flag != "-ffast-math"]
        _run([*compiler, *linking, "-shared", *objects, "-lm", "-o", str(library)])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_COMPILER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(str(error)) from None
    if done.returncode:
        raise CompileError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0])
