"""The folder that an export writes or replaces: nothing but a bundle of ours, or an empty folder, ever makes way."""

from __future__ import annotations

import json
from pathlib import Path

from omni_edge.bundle.manifest import FORMAT, MANIFEST_NAME
from omni_edge.errors import UsageError

NOTES_NAME = "progress.json"
# Files that systems put into folders by themselves.
_SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
_NAMED_IN_MESSAGE = 3


def resolve_target(out: Path) -> Path:
    """The absolute path of `out`, links followed.

    Raises:
        UsageError: `out` is the working directory or contains it, or the system cannot look it up.
    """
    try:
        target = out.expanduser().resolve()
        working = Path.cwd().resolve()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"--out {out} cannot be used ({error}). Choose another folder.") from None
    if working == target:
        raise UsageError(f"--out {out} is the folder you are in. Name a folder to make: --out {out / 'bundle'}.")
    if working.is_relative_to(target):
        raise UsageError(f"--out {out} contains the folder you are in ({working}). Choose another --out.")
    return target


def refuse_source(out: Path, target: Path, source: Path) -> None:
    """Raises UsageError where `target` is the checkpoint `source`, or contains it."""
    checkpoint = source.resolve()
    if checkpoint == target:
        raise UsageError(f"--out {out} is the checkpoint itself, which is never replaced. Choose another --out.")
    if checkpoint.is_relative_to(target):
        raise UsageError(f"--out {out} contains the checkpoint {source}. Choose another --out.")


def refuse_occupied(out: Path, target: Path, *, force: bool) -> None:
    """Raises UsageError unless `target` is free, an empty folder, or, with `force`, a bundle and nothing else."""
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise UsageError(f"{out} is a file. Choose another --out.")
        names = sorted(path.name for path in target.iterdir())
    except OSError as error:
        raise UsageError(f"--out {out} cannot be used ({error.strerror}). Choose another folder.") from None
    if not names:
        return
    files = bundle_files(target)
    if files is None:
        raise UsageError(f"{out} exists already and is not a bundle, so it is never replaced. Choose another --out.")
    if not force:
        raise UsageError(f"{out} exists already. Choose another --out, or replace it with --force.")
    if foreign := [name for name in names if name not in files or (target / name).is_dir()]:
        some = ", ".join(foreign[:_NAMED_IN_MESSAGE])
        raise UsageError(
            f"{out} holds more than a bundle ({some}), so it is not replaced. Move that away, or choose another --out."
        )


def bundle_files(folder: Path) -> set[str] | None:
    """The names that a bundle in `folder` may have there; None where `folder` holds no bundle."""
    try:
        raw = json.loads((folder / MANIFEST_NAME).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        return None
    files = raw.get("files")
    names = set(files) if isinstance(files, dict) else set()
    return {MANIFEST_NAME, NOTES_NAME, *_SYSTEM_FILES, *names}


def remove_bundle(folder: Path) -> None:
    """Removes a bundle's files, its manifest last, and its folder, unless that holds anything else.

    Raises:
        OSError: something could not be removed; what is left is still recognised as a bundle.
    """
    names = bundle_files(folder) or set()
    for name in sorted(names, key=lambda name: (name == MANIFEST_NAME, name)):
        path = folder / name
        if path.parent == folder and (path.is_file() or path.is_symlink()):
            path.unlink()
    folder.rmdir()
