"""The folder an export works in: what it holds when it is interrupted, and how it becomes the bundle.

Everything is written to `<out>.partial`, together with notes on the finished graphs: their entries in the manifest and
the SHA-256 of what was written. An export that goes on takes over the graphs whose files still are what the notes say,
and removes everything else. Only a complete folder, on the disk and not merely on its way there, is renamed to `<out>`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_edge.bundle.manifest import MANIFEST_NAME, FileEntry, GraphEntry
from omni_edge.bundle.reader import sha256_of
from omni_edge.errors import ResourceError

_NOTES = "progress.json"


@dataclass(frozen=True)
class WrittenGraph:
    """A graph that is complete: its entry in the manifest, its files, and how long it took."""

    entry: GraphEntry
    files: dict[str, FileEntry]
    seconds: float

    @property
    def nbytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


class Workplace:
    """`<out>.partial`.

    Args:
        out: the bundle's folder.
        fingerprint: what must be equal for finished graphs to be taken over; JSON.
    """

    def __init__(self, out: Path, fingerprint: dict[str, Any]) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        self._fingerprint: dict[str, Any] = json.loads(json.dumps(fingerprint))

    def open(self, *, resume: bool) -> dict[str, WrittenGraph]:
        """Makes the folder; returns the graphs that an interrupted export finished there (none without `resume`)."""
        finished = self._finished() if resume else {}
        kept = {name for graph in finished.values() for name in graph.files}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name not in kept:
                    path.unlink()
        except OSError as error:
            raise ResourceError(f"{self.folder} cannot be created ({error.strerror}). Choose another --out.") from None
        if finished:
            self.note(finished)
        return finished

    def _finished(self) -> dict[str, WrittenGraph]:
        try:
            notes = json.loads((self.folder / _NOTES).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        if notes.get("fingerprint") != self._fingerprint:
            return {}
        graphs = {
            role: WrittenGraph(
                GraphEntry(**noted["entry"]),
                {name: FileEntry(**file) for name, file in noted["files"].items()},
                noted["seconds"],
            )
            for role, noted in notes["graphs"].items()
        }
        return {role: graph for role, graph in graphs.items() if self._intact(graph)}

    def _intact(self, graph: WrittenGraph) -> bool:
        """Whether the files are what was written: after a power cut, some of it may never have reached the disk."""
        for name, file in graph.files.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
                return False
        return True

    def note(self, graphs: dict[str, WrittenGraph]) -> None:
        """Writes down that `graphs` are complete."""
        noted = {role: dataclasses.asdict(graph) for role, graph in graphs.items()}
        text = json.dumps({"fingerprint": self._fingerprint, "graphs": noted}, indent=1)
        draft = self.folder / f"{_NOTES}.draft"
        draft.write_text(text, "utf-8")
        draft.replace(self.folder / _NOTES)

    def require(self, nbytes: int) -> None:
        """Raises ResourceError where the disk has no room for `nbytes` more."""
        free = shutil.disk_usage(self.folder).free
        if free < nbytes:
            raise ResourceError(
                f"The bundle needs {nbytes / 1e9:.2f} GB, and {self.folder.parent} has {free / 1e9:.2f} GB free. "
                "Free some disk space, or choose another --out."
            )

    def files(self, graphs: dict[str, WrittenGraph]) -> dict[str, FileEntry]:
        """Every file of the bundle, sorted by name; those of `graphs` were hashed when they were written."""
        entries = {name: file for graph in graphs.values() for name, file in graph.files.items()}
        for path in self.folder.iterdir():
            if path.name not in (_NOTES, MANIFEST_NAME, *entries):
                entries[path.name] = FileEntry(path.stat().st_size, sha256_of(path))
        return dict(sorted(entries.items()))

    def finish(self, manifest: str) -> None:
        """Adds the manifest and turns the folder into the bundle, which replaces one that exists."""
        (self.folder / MANIFEST_NAME).write_text(manifest, "utf-8")
        for path in self.folder.iterdir():
            _to_disk(path)
        (self.folder / _NOTES).unlink(missing_ok=True)
        _to_disk(self.folder)
        old = self.out.with_name(f"{self.out.name}.old.partial")
        if old.exists():
            shutil.rmtree(old)
        if self.out.exists():
            # The old bundle makes way only now that the new one is complete.
            self.out.rename(old)
        self.folder.rename(self.out)
        if old.exists():
            shutil.rmtree(old)


def _to_disk(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
