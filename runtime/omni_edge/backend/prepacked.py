"""Prepacked weights: graphs as onnxruntime rearranges them for this machine, kept outside of the bundle.

Loading a bundle packs every matrix for the processor at hand: seconds of work, and as many bytes of private memory as
there are weights. A prepared graph is packed once; loading it maps the result, which the system shares between
processes and may drop and read again (measured on the 3B's Thinker: 1.7 GB of private memory become 0.04 GB, 4.7 s of
loading 1.3 s). It holds for one processor type and one onnxruntime version; others pack again.
Where our operators are compiled, linear layers read their weights in the bundle itself: such graphs stay as they are.

Static graphs are compiled for their NPU in the same way, into a folder beside.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from omni_edge.backend import kernels, qnn
from omni_edge.backend.file_lock import locked
from omni_edge.backend.graph import prepare_graph, runtime_version
from omni_edge.backend.machine import cache_root, digest, processor
from omni_edge.bundle.manifest import MANIFEST_NAME, graph_bytes
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import ResourceError

_READY_NAME = "ready.json"
_PARTIAL_SUFFIX = ".partial"
_LOCK_SUFFIX = ".lock"
# Packed matrices stand beside what they were packed from: measured 2.1 times the graphs' size.
_SIZE_FACTOR = 2.2
# Compiled layers are there twice, for prefill and for decode, each 1.2 times their size.
_NPU_SIZE_FACTOR = 2.4
_NPU_PREFIX = "qnn."


@dataclass(frozen=True)
class PreparedGraphs:
    """The prepared graphs of one bundle for this machine.

    Attributes:
        bundle: the bundle that they are made from.
        folder: their place, whether they exist or not.
        target: the NPU that they are for; None: the processor.
    """

    bundle: Bundle
    folder: Path
    target: str | None = None

    @classmethod
    def for_bundle(cls, bundle: Bundle, root: Path | None = None, target: str | None = None) -> PreparedGraphs:
        """The prepared graphs of `bundle` below `root` (None: the user's cache folder).

        With `target` they are its static graphs, compiled for that NPU.
        """
        manifest = digest((bundle.path / MANIFEST_NAME).read_bytes())
        if target is None:
            machine = digest(f"{runtime_version()} {processor()} {kernels.compiled()}".encode())
        else:
            manifest = _NPU_PREFIX + manifest
            machine = digest(f"{runtime_version()} {qnn.version()} {target}".encode())
        return cls(bundle, (root or cache_root()) / f"{manifest}-{machine}", target)

    def graph(self, role: str) -> Path | None:
        """The prepared graph of `role`; None where there is none, or a damaged one."""
        ready = self._ready()
        path = self.folder / f"{role}.onnx"
        return path if ready is not None and path.name in ready else None

    def missing(self) -> list[str]:
        """Roles of the graphs that `build` would prepare; empty where all are prepared or read in place."""
        return [role for role in self._sources() if self.graph(role) is None]

    def _sources(self) -> dict[str, Path]:
        """Role -> graph, of those to prepare: the static ones, or those whose weights are not read in place.

        A static graph's role is its file's name without the ending.
        """
        manifest = self.bundle.manifest
        if self.target is None:
            graphs = {role: self.bundle.file(entry.file) for role, entry in manifest.graphs.items()}
            return {role: path for role, path in graphs.items() if not kernels.read_in_place(path)}
        files = manifest.static.npu_files if manifest.static and not manifest.static.compiled else []
        return {Path(name).stem: self.bundle.file(name) for name in files}

    def _needed(self, roles: Iterable[str]) -> int:
        """Bytes of the prepared graphs, at most."""
        manifest = self.bundle.manifest
        if self.target is None:
            return int(_SIZE_FACTOR * sum(graph_bytes(manifest, role) for role in roles))
        decoders = [role for role in ("thinker", "talker") if role in manifest.graphs]
        return int(_NPU_SIZE_FACTOR * sum(graph_bytes(manifest, role) for role in decoders))

    def build(
        self,
        progress: Callable[[str], None] | None = None,
        on_busy: Callable[[int | None], None] | None = None,
    ) -> int:
        """Prepares every graph whose weights are not read in place; removes those of other machines and versions.

        Args:
            progress: called with each graph's role before it is packed.
            on_busy: called with another process's id (None: unknown) before we wait until that has prepared them.

        Returns:
            bytes written.

        Raises:
            ResourceError: the disk has no room.
        """
        graphs = self._sources()
        needed = self._needed(graphs)
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = self.folder.with_name(f"{self._bundle_name}{_LOCK_SUFFIX}")
            with locked(lock, lambda process: on_busy(process) if on_busy else None) as waited:
                if waited and (sizes := self._ready()) is not None:
                    return sum(sizes.values())
                return self._build(graphs, needed, progress)
        except OSError as error:
            raise ResourceError(
                f"Preparing into {self.folder.parent} failed: {error.strerror}. Make room, or set OMNI_EDGE_CACHE."
            ) from error

    def _build(self, graphs: dict[str, Path], needed: int, progress: Callable[[str], None] | None) -> int:
        self._remove_others()
        free = shutil.disk_usage(self.folder.parent).free
        if free < needed:
            raise ResourceError(
                f"Preparing needs about {needed / 1e9:.1f} GB in {self.folder.parent}, which has {free / 1e9:.1f} "
                "free. Make room, or set OMNI_EDGE_CACHE to a folder on another disk."
            )
        partial = self.folder.with_name(self.folder.name + _PARTIAL_SUFFIX)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            for role, path in graphs.items():
                if progress:
                    progress(role)
                prepare_graph(path, partial / f"{role}.onnx", self.target)
            sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
            (partial / _READY_NAME).write_text(json.dumps(sizes), "utf-8")
            shutil.rmtree(self.folder, ignore_errors=True)
            partial.rename(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return sum(sizes.values())

    def _ready(self) -> dict[str, int] | None:
        """The files of complete prepared graphs with their sizes in bytes; None where there are none."""
        try:
            ready: dict[str, int] = json.loads((self.folder / _READY_NAME).read_text("utf-8"))
            whole = all((self.folder / name).stat().st_size == size for name, size in ready.items())
        except (OSError, ValueError, AttributeError):
            return None
        return ready if whole else None

    @property
    def _bundle_name(self) -> str:
        return self.folder.name.split("-", 1)[0]

    def _remove_others(self) -> None:
        for other in self.folder.parent.glob(f"{self._bundle_name}-*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
