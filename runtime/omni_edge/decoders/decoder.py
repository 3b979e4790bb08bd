"""A decoder graph with its KV cache; the Thinker and the Talker are two of them."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Binding, Graph
from omni_edge.bundle.manifest import DecoderSection
from omni_edge.decoders.static_graphs import StaticGraphs
from omni_edge.decoders.tmrope import Ids, RotaryTable
from omni_edge.errors import ContextFullError

# Longer inputs are prefilled in pieces of this many positions: as fast as 512, with a lower peak (measured).
PREFILL_POSITIONS = 128


@dataclass
class KVCache:
    """Keys and values of every layer, preallocated, and the rotary row of every slot.

    The memory is reserved at once, becomes resident as slots fill, and goes back to the system with the cache: it is a
    mapping of its own. malloc would keep the resident pages (measured: 1 GB after three conversations with a 3B model).

    Attributes:
        keys, values: per layer float32 or int8 [1, kv_heads, capacity, head_dim]; static graphs can have more slots.
        cos, sin: float32 [capacity, head_dim / 2].
        offset: positions in use.
    """

    keys: list[NDArray[Any]]
    values: list[NDArray[Any]]
    cos: NDArray[np.float32]
    sin: NDArray[np.float32]
    offset: int = 0
    _bindings: dict[int, _Step] = field(default_factory=dict, repr=False)

    @classmethod
    def allocate(cls, section: DecoderSection, capacity: int, slots: int | None = None) -> KVCache:
        """An empty cache for `capacity` positions, in memory for `slots` (None: as many)."""
        shape = (1, section.num_kv_heads, slots or capacity, section.head_dim)
        dtype = np.dtype(section.cache_dtype)
        keys, values = ([_mapped(shape, dtype) for _ in range(section.num_layers)] for _ in range(2))
        cos, sin = (_mapped((capacity, section.head_dim // 2), np.dtype(np.float32)) for _ in range(2))
        return cls(keys, values, cos, sin)

    @property
    def capacity(self) -> int:
        """Number of positions that fit."""
        return len(self.cos)

    @property
    def nbytes(self) -> int:
        """Bytes reserved; resident are about `offset / capacity` of them."""
        return sum(array.nbytes for array in (*self.keys, *self.values, self.cos, self.sin))

    def views(self, offset: int) -> dict[str, NDArray[Any]]:
        """The first `offset` positions of every array, without copies.

        Returns:
            "cos" and "sin" [offset, head_dim / 2]; "keys.L" and "values.L" [kv_heads, offset, head_dim] of layer L.
        """
        views = {"cos": self.cos[:offset], "sin": self.sin[:offset]}
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            views[f"keys.{layer}"], views[f"values.{layer}"] = keys[0, :, :offset], values[0, :, :offset]
        return views

    def trim(self, offset: int) -> None:
        """Forgets every position from `offset` on."""
        if not 0 <= offset <= self.offset:
            raise ValueError(f"cannot trim a cache of {self.offset} positions to {offset}")
        self.offset = offset

    def reset(self) -> None:
        """Forgets everything; the memory stays."""
        self.offset = 0


def _mapped(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros in private pages of their own."""
    pages = mmap.mmap(-1, prod(shape) * dtype.itemsize, access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, dtype).reshape(shape)


@dataclass
class _Step:
    """Everything bound for runs over a fixed number of positions."""

    binding: Binding
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[np.float32]]
    last_slot: NDArray[np.int32]
    total: NDArray[np.int32]


class Decoder:
    """Runs a decoder graph over a cache; immutable.

    Args:
        graph: a `thinker` or `talker` graph, or the static ones in its place.
        section: its sizes.
    """

    def __init__(self, graph: Graph | StaticGraphs, section: DecoderSection) -> None:
        self.graph = graph
        self.section = section
        self._rotary = RotaryTable(section)
        self._piece = graph.prefill_positions if isinstance(graph, StaticGraphs) else PREFILL_POSITIONS

    def cache(self, capacity: int) -> KVCache:
        """An empty cache for `capacity` positions."""
        slots = self.graph.slots if isinstance(self.graph, StaticGraphs) else None
        return KVCache.allocate(self.section, capacity, slots)

    def step(
        self, inputs: Mapping[str, NDArray[Any]], positions: Ids, cache: KVCache
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Appends S positions to the cache.

        Args:
            inputs: the graph's own inputs by role, each [1, S, ...].
            positions: int64 [3, S], time / height / width ids.
            cache: updated in place.

        Returns:
            hidden float32 [S, hidden] and logits float32 [vocabulary] of the last position; both are valid until the
            next call on this cache.

        Raises:
            ContextFullError: the cache has no room for S more positions; nothing was changed.
        """
        count = positions.shape[1]
        self.reserve(count, cache)
        hidden = []
        for start in range(0, count, self._piece):
            stop = min(count, start + self._piece)
            piece = {role: value[:, start:stop] for role, value in inputs.items()}
            outputs = self._run(piece, positions[:, start:stop], cache)
            hidden.append(outputs["hidden"][0] if stop - start == count else outputs["hidden"][0].copy())
        return hidden[0] if len(hidden) == 1 else np.concatenate(hidden), outputs["logits"][0, 0]

    def reserve(self, count: int, cache: KVCache) -> None:
        """Checks that `count` more positions fit.

        Raises:
            ContextFullError: they do not.
        """
        if cache.offset + count <= cache.capacity:
            return
        limit = self.section.max_positions
        if count > limit:
            way = f"The model itself holds {limit}: send less, a shorter sound or a smaller picture."
        elif cache.capacity < limit:
            way = f"Send less, start a new conversation (reset), or raise the context (--context, up to {limit})."
        else:
            way = "Send less, or start a new conversation (reset)."
        raise ContextFullError(
            f"The context is full: {cache.offset} of {cache.capacity} positions are used and {count} more are needed. "
            f"{way}"
        )

    def _run(
        self, inputs: Mapping[str, NDArray[Any]], positions: Ids, cache: KVCache
    ) -> dict[str, NDArray[np.float32]]:
        count = positions.shape[1]
        begin, end = cache.offset, cache.offset + count
        rotary = self._rotary.rows(positions)
        cache.cos[begin:end], cache.sin[begin:end] = rotary
        if isinstance(self.graph, StaticGraphs):
            results = self.graph.step(inputs, rotary, cache.keys, cache.values, begin)
            cache.offset = end
            return results
        step = cache._bindings.get(count)
        if step is None:
            step = self._bind(self.graph, inputs, count, cache)
            # The two frequent lengths: one position while decoding, whole pieces of a long prompt.
            if count in (1, PREFILL_POSITIONS):
                cache._bindings[count] = step
        for role, value in inputs.items():
            step.inputs[role][...] = value
        step.last_slot[0], step.total[0] = end - 1, end
        step.binding.run()
        cache.offset = end
        return step.outputs

    def _bind(self, graph: Graph, inputs: Mapping[str, NDArray[Any]], count: int, cache: KVCache) -> _Step:
        section = self.section
        binding = graph.binding()
        owned = {role: np.empty(value.shape, value.dtype) for role, value in inputs.items()}
        outputs = {
            "hidden": np.empty((1, count, section.hidden_size), np.float32),
            "logits": np.empty((1, 1, section.vocab_size), np.float32),
        }
        last_slot, total = np.zeros(1, np.int32), np.zeros(1, np.int32)
        shared = {"last_slot": last_slot, "total": total, "cos": cache.cos, "sin": cache.sin}
        for role, array in {**owned, **shared}.items():
            binding.input(graph.input_name(role), array)
        for role, array in outputs.items():
            binding.output(graph.output_name(role), array)
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            for kind, array in (("key", keys), ("value", values)):
                binding.input(graph.input_name(f"past_{kind}", layer), array)
                binding.output(graph.output_name(f"present_{kind}", layer), array)
        return _Step(binding, owned, outputs, last_slot, total)
