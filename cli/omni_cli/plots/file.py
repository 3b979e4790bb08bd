"""Pictures that commands write: SVG files, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from omni_edge.errors import UsageError

_SUFFIX = ".svg"


def check_plot(path: Path) -> None:
    """Before any work is done: may a picture be called `path`?

    Raises:
        UsageError: its folder does not exist, or its name promises another format.
    """
    if path.suffix.lower() != _SUFFIX:
        raise UsageError(f"--plot draws SVG, which {path.name} does not say. Call it {path.with_suffix(_SUFFIX).name}.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist. Create it, or choose another file with --plot.")


def write_plot(path: Path, picture: str) -> None:
    """Writes the picture; whoever looks meanwhile sees the file before or after, never a part.

    Raises:
        UsageError: the file cannot be written there.
        OSError: the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(picture, "utf-8")
        partial.replace(path)
    except (PermissionError, IsADirectoryError, FileNotFoundError) as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}). Choose another file with --plot.") from None
    finally:
        partial.unlink(missing_ok=True)
