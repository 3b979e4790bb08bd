"""The folder an export works in: what it holds when it is interrupted, and how it becomes the bundle.

Everything is written to `<out>.partial`, together with notes on the finished graphs: their entries in the manifest and
the SHA-256 of what was written. A resumed export takes over the graphs whose files still match the notes and removes
everything else. Only a complete folder, on the disk and not merely on its way there, is renamed to `<out>`. A bundle
that is replaced waits as `<out>.old.partial` meanwhile; the next export puts it back where a crash left it there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_edge.backend.file_lock import locked
from omni_edge.bundle.manifest import MANIFEST_NAME, FileEntry, GraphEntry, parse
from omni_edge.bundle.reader import sha256_of
from omni_edge.errors import BundleError, ResourceError, UsageError
from omni_export.output.target import NOTES_NAME, bundle_files, refuse_occupied, remove_bundle, resolve_target


@dataclass(frozen=True)
class WrittenGraph:
    """A complete graph: its entry in the manifest, its files, and the seconds it took."""

    entry: GraphEntry
    files: dict[str, FileEntry]
    seconds: float

    @property
    def nbytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


class PartialBundle:
    """`<out>.partial`.

    Args:
        out: the bundle's folder.
        fingerprint: JSON that must be equal for finished graphs to be taken over.

    Raises:
        UsageError: `out` is or contains the working directory.
    """

    def __init__(self, out: Path, fingerprint: dict[str, Any]) -> None:
        self.out = out
        self._target = resolve_target(out)
        self.folder = self._target.with_name(f"{self._target.name}.partial")
        self._old = self._target.with_name(f"{self._target.name}.old.partial")
        self._fingerprint: dict[str, Any] = json.loads(json.dumps(fingerprint))
        self._finished_any = False
        # Work on a graph that takes long; it is kept for a resumed export.
        self.calibration = self.folder / "calibration"

    @contextmanager
    def opened(self, *, resume: bool, force: bool) -> Iterator[dict[str, WrittenGraph]]:
        """The folder made and locked; yields the graphs that an interrupted export finished (none without `resume`).

        A block that fails before any graph is complete leaves no folder.

        Raises:
            UsageError: another export is writing here, or `out` holds anything but what `force` may replace.
            ResourceError: the folder cannot be made.
        """
        with ExitStack() as stack:
            try:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder.with_name(f"{self.folder.name}.lock"), self._refuse))
                self._put_back()
                refuse_occupied(self.out, self._target, force=force)
                finished = self._prepare(resume=resume)
            except OSError as error:
                where = error.filename or self.folder
                raise ResourceError(f"{where} cannot be written ({error.strerror}). Choose another --out.") from None
            try:
                yield finished
            except BaseException:
                if not self._finished_any:
                    self._clear(set())
                    self.folder.rmdir()
                raise

    def _refuse(self, process: int | None) -> None:
        by = f" (process {process})" if process else ""
        raise UsageError(f"Another export is writing {self.out}{by}. Wait until it ends, or choose another --out.")

    def _put_back(self) -> None:
        """Puts the old bundle back that a crash has left aside."""
        if not self._target.exists() and bundle_files(self._old) is not None:
            self._old.rename(self._target)

    def _prepare(self, *, resume: bool) -> dict[str, WrittenGraph]:
        if self.folder.is_symlink() or not self._is_ours():
            raise UsageError(
                f"{self.folder} exists and is no unfinished export, so it is left alone. Move it away, or choose "
                "another --out."
            )
        finished = self._finished() if resume else {}
        self.folder.mkdir(exist_ok=True)
        kept = {name for graph in finished.values() for name in graph.files}
        # The notes hold no graph where the checkpoint or the options are others.
        self._clear(kept | {self.calibration.name} if finished else kept)
        self.note(finished)
        return finished

    def _is_ours(self) -> bool:
        if not self.folder.exists():
            return True
        if not self.folder.is_dir():
            return False
        return (self.folder / NOTES_NAME).is_file() or not any(self.folder.iterdir())

    def _clear(self, kept: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.name in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _finished(self) -> dict[str, WrittenGraph]:
        try:
            notes = json.loads((self.folder / NOTES_NAME).read_text("utf-8"))
            if notes["fingerprint"] != self._fingerprint:
                return {}
            graphs = {
                role: WrittenGraph(
                    parse(GraphEntry, noted["entry"], role),
                    {name: FileEntry(**file) for name, file in noted["files"].items()},
                    float(noted["seconds"]),
                )
                for role, noted in notes["graphs"].items()
            }
            return {role: graph for role, graph in graphs.items() if self._intact(graph)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BundleError):
            return {}  # damaged notes are worth nothing

    def _intact(self, graph: WrittenGraph) -> bool:
        """Whether the files match the notes: after a power cut, some may never have reached the disk."""
        for name, file in graph.files.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
                return False
        return True

    def note(self, graphs: dict[str, WrittenGraph]) -> None:
        """Notes that `graphs` are complete."""
        noted = {role: dataclasses.asdict(graph) for role, graph in graphs.items()}
        text = json.dumps({"fingerprint": self._fingerprint, "graphs": noted}, indent=1)
        draft = self.folder / f"{NOTES_NAME}.draft"
        draft.write_text(text, "utf-8")
        draft.replace(self.folder / NOTES_NAME)
        self._finished_any = bool(graphs)

    def drop_calibration(self) -> None:
        """Removes what a finished calibration has left."""
        if self.calibration.exists():
            shutil.rmtree(self.calibration)

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
            if path.name not in (NOTES_NAME, MANIFEST_NAME, *entries):
                entries[path.name] = FileEntry(path.stat().st_size, sha256_of(path))
        return dict(sorted(entries.items()))

    def finish(self, manifest: str) -> None:
        """Adds the manifest and turns the folder into the bundle, which replaces one that exists."""
        (self.folder / MANIFEST_NAME).write_text(manifest, "utf-8")
        for path in self.folder.iterdir():
            _sync(path)
        _sync(self.folder)
        if self._old.exists():
            remove_bundle(self._old)
        if self._target.exists():
            # The old bundle makes way only now that the new one is complete.
            self._target.rename(self._old)
        try:
            self.folder.rename(self._target)
        except BaseException:
            if self._old.exists():
                self._old.rename(self._target)
            raise
        _sync(self._target.parent)
        (self._target / NOTES_NAME).unlink(missing_ok=True)
        if self._old.exists():
            remove_bundle(self._old)


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
