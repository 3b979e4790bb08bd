"""Loads the graphs of a bundle, and decides how long those that are not always needed stay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from omni_edge.backend.graph import Graph, Trace
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import BundleError

Stage = TypeVar("Stage")


class GraphLoader:
    """Loads graphs by role: prepared for this machine where they are, else from the bundle.

    Args:
        bundle: where they come from.
        threads: cores one graph may use; None: all.
        trace: is told of every run of every graph.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None, trace: Trace | None = None) -> None:
        self.bundle = bundle
        self.threads = threads
        self._trace = trace
        self._prepared = PreparedGraphs.of(bundle)

    def __call__(self, role: str, *, varying: bool = False) -> Graph:
        """The graph of `role`; `varying` as in `Graph`.

        Raises:
            BundleError: the bundle has none, or a damaged one.
            ResourceError: not enough memory.
        """
        if prepared := self._prepared.graph(role):
            try:
                return Graph.from_bundle(
                    self.bundle, role, self.threads, prepared=prepared, varying=varying, trace=self._trace
                )
            except BundleError:
                # Whatever happened to the cache, the bundle itself is what counts.
                pass
        return Graph.from_bundle(self.bundle, role, self.threads, varying=varying, trace=self._trace)


class Stages:
    """Parts of the model that are loaded when they are first needed; thread-safe.

    Args:
        exclusive: keep one at a time: loading another lets go of the one before.
    """

    def __init__(self, *, exclusive: bool) -> None:
        self._exclusive = exclusive
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    def get(self, name: str, load: Callable[[], Stage]) -> Stage:
        """The stage `name`, loading it where it is not there."""
        with self._lock:
            if name not in self._loaded:
                if self._exclusive:
                    self._loaded.clear()
                self._loaded[name] = load()
            stage: Stage = self._loaded[name]
            return stage
