"""Files that commands write: checked before any work is done."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from omni_edge.errors import UsageError

_WAV_SUFFIXES = ("", ".wav", ".wave")


def check_wav_name(path: Path) -> None:
    """Refuses a name that promises another format than WAV.

    Raises:
        UsageError: it does.
    """
    if path.suffix.lower() not in _WAV_SUFFIXES:
        raise UsageError(
            f"Speech is written as WAV, which {path.name} does not say. Call it {path.with_suffix('.wav').name}."
        )


def check_output(path: Path, option: str, inputs: Iterable[Path]) -> None:
    """Refuses a file that cannot be written, or that this command reads.

    Args:
        path: the file; it may exist.
        option: the name of the option, for the message.
        inputs: files and folders that the command reads.

    Raises:
        UsageError: the folder does not exist, `path` is a folder, or `path` is an input or lies in one.
    """
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist. Create it, or choose another file with {option}.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder and cannot be written as a file. Choose another file with {option}.")
    for read in inputs:
        same = path.exists() and read.exists() and path.samefile(read) and stat.S_ISREG(path.stat().st_mode)
        if same or (read.is_dir() and path.resolve().is_relative_to(read.resolve())):
            raise UsageError(f"{option} {path} would overwrite what this command reads. Choose another file.")
