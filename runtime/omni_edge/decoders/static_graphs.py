"""A step of a decoder by static graphs, as an NPU takes them: fixed lengths, in parts, over a cache of fixed size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import StaticDecoder

# Added to the score of a slot that holds no past: its share is 0 also in float16, which this does not leave.
_MASKED = np.float32(-3e4)


def attention_mask(length: int, slots: int, past: int) -> NDArray[np.float32]:
    """What is added to scores, float32 [length, slots + length]: 0 for the `past` and for positions up to one's own."""
    mask = np.full((length, slots + length), _MASKED)
    mask[:, :past] = 0
    mask[:, slots:] = np.triu(mask[:, slots:], 1)
    return mask


class StaticGraphs:
    """The static graphs of one decoder; immutable.

    Args:
        entry: their description.
        slots: positions of the cache that they take.
        load: file -> graph.
        load_input: file -> the graph that makes what enters the first layer; it takes any number of positions.
    """

    def __init__(
        self,
        entry: StaticDecoder,
        slots: int,
        load: Callable[[str], Graph],
        load_input: Callable[[str], Graph],
    ) -> None:
        self.slots = slots
        self.prefill_positions = entry.prefill_positions
        self._input = load_input(entry.input) if entry.input else None
        self._prefill, self._decode = ([load(file) for file in files] for files in (entry.prefill, entry.decode))
        self._head = load(entry.head)
        ends = np.cumsum(entry.part_layers)
        self._layers = [range(end - count, end) for end, count in zip(ends.tolist(), entry.part_layers, strict=True)]

    def step(
        self,
        inputs: Mapping[str, NDArray[Any]],
        rotary: tuple[NDArray[np.float32], NDArray[np.float32]],
        keys: Sequence[NDArray[np.float32]],
        values: Sequence[NDArray[np.float32]],
        begin: int,
    ) -> dict[str, NDArray[np.float32]]:
        """Puts the keys and values of `count` positions into the cache.

        Args:
            inputs: as of the decoder's own graph, each [1, count, ...]; at most `prefill_positions`.
            rotary: cos and sin of the positions, float32 [count, head_dim / 2].
            keys, values: per layer float32 [1, kv_heads, slots, head_dim], the cache.
            begin: slot of the first position.

        Returns:
            "hidden" float32 [1, count, hidden] and "logits" float32 [1, 1, vocabulary] of the last position.
        """
        x: NDArray[np.float32] = self._input.run(inputs)[0] if self._input else inputs["embeds"]
        count = x.shape[1]
        length, parts = (1, self._decode) if count == 1 else (self.prefill_positions, self._prefill)
        padding = length - count
        mask = attention_mask(length, self.slots, begin)
        x = np.pad(x, ((0, 0), (0, padding), (0, 0)))
        cos, sin = (np.pad(rows, ((0, padding), (0, 0))) for rows in rotary)
        for graph, layers in zip(parts, self._layers, strict=True):
            past = {
                f"past.{layer}.{kind}": cache[layer]
                for layer in layers
                for kind, cache in (("key", keys), ("value", values))
            }
            results = dict(
                zip(graph.outputs, graph.run({"x": x, "cos": cos, "sin": sin, "mask": mask, **past}), strict=True)
            )
            x = results["y"]
            for layer in layers:
                for kind, cache in (("key", keys), ("value", values)):
                    cache[layer][:, :, begin : begin + count] = results[f"new.{layer}.{kind}"][:, :, :count]
        hidden = x[:, :count]
        return {"hidden": hidden, "logits": self._head.run({"x": hidden[:, -1:]})[0]}
