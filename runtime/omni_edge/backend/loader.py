"""Loads the graphs of a bundle, and keeps the parts that are not always needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from omni_edge.backend import qnn
from omni_edge.backend.graph import Graph, Trace
from omni_edge.backend.machine import usable_cores
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import BundleError, ResourceError, UsageError

Part = TypeVar("Part")


class GraphLoader:
    """Loads graphs by role: the one prepared for this machine, or else the bundle's.

    Args:
        bundle: the bundle with the graphs.
        threads: cores that one graph may use; None: all.
        trace: called after every run of every graph.
        device: what runs the static graphs, see `qnn.choose_target`.

    Attributes:
        target: the NPU that runs them; None: there is none, and the processor runs the decoders' own graphs.

    Raises:
        UsageError: more threads than cores, or a device that the bundle has no graphs for.
        ResourceError: the device is not there.
    """

    def __init__(
        self, bundle: Bundle, threads: int | None = None, trace: Trace | None = None, device: str = "cpu"
    ) -> None:
        if threads is not None and not 1 <= threads <= usable_cores():
            raise UsageError(f"{threads} threads were asked for; this process may use 1 to {usable_cores()} cores.")
        self.bundle = bundle
        self.threads = threads
        self.target = qnn.choose_target(device, bundle.manifest.static)
        self._trace = trace
        self._prepared = _prepared(bundle)
        self._compiled = _prepared(bundle, self.target) if self.target else None

    def __call__(self, role: str, *, varying: bool = False) -> Graph:
        """The graph of `role`; `varying` as in `Graph`.

        Raises:
            BundleError: the bundle has none, or a damaged one.
            ResourceError: not enough memory.
        """
        if prepared := self._prepared and self._prepared.graph(role):
            try:
                return Graph.from_bundle(
                    self.bundle, role, self.threads, prepared=prepared, varying=varying, trace=self._trace
                )
            except BundleError:
                # A damaged copy in the cache does no harm: the bundle itself has the graph.
                pass
        return Graph.from_bundle(self.bundle, role, self.threads, varying=varying, trace=self._trace)

    def static(self, role: str, file: str) -> Graph:
        """The static graph in `file`, a part of what plays `role`, on the NPU.

        Raises:
            BundleError: the NPU does not take it.
            ResourceError: not enough memory.
        """
        compiled = self._compiled.graph(Path(file).stem) if self._compiled else None
        path = compiled or self.bundle.file(file)
        return Graph(path, role=f"{role} (qnn)", trace=self._trace, target=self.target)

    def beside_static(self, role: str, file: str) -> Graph:
        """The graph in `file`, a part of what plays `role`, on the processor."""
        return Graph(self.bundle.file(file), threads=self.threads, role=role, trace=self._trace)


def _prepared(bundle: Bundle, target: str | None = None) -> PreparedGraphs | None:
    """What `omni-edge prepare` has left; None where this user has no cache folder."""
    try:
        return PreparedGraphs.for_bundle(bundle, target=target)
    except ResourceError:
        return None


class LazyParts:
    """Parts of the model that are loaded when they are first needed; thread-safe.

    Args:
        one_at_a_time: loading a part releases the one before.
    """

    def __init__(self, *, one_at_a_time: bool) -> None:
        self._one_at_a_time = one_at_a_time
        self._parts: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def loaded(self) -> list[str]:
        """Names of the parts in memory."""
        return list(self._parts)

    def get(self, name: str, load: Callable[[], Part]) -> Part:
        """The part `name`; `load` makes it where it is not in memory."""
        with self._lock:
            if name not in self._parts:
                if self._one_at_a_time:
                    self._parts.clear()
                self._parts[name] = load()
            part: Part = self._parts[name]
            return part
