"""The blocks in the `dit` graph, and the window that each of them attends to.

Attention leaves a block only in look-backward and look-ahead layers. So it runs block by block, as a batch. A query
sees at most the previous, its own and the next block. A look-ahead layer cannot finish a block before the next one is
there. It may hold the last block back, and continue with it in the next run of the graph.
"""

from __future__ import annotations

import numpy as np

from omni_export.graph.builder import GraphBuilder

_MASKED = -1e9
_END = np.iinfo(np.int64).max


class Blocks:
    """Blocks between two look-ahead layers; their values are [G * blocks, size, width].

    Args:
        g: the graph.
        rows: int64 [1], G.
        size: frames of a block.
        own: float32 [blocks, size], 0 where a frame exists, very negative elsewhere.
        left: float32 [1, size], the same for the block before the first one.
        name: path of the nodes.
        advancing: int64 [1], how many of the blocks advance past this layer; None: all of them.
    """

    def __init__(
        self, g: GraphBuilder, rows: str, size: int, own: str, left: str, name: str, advancing: str | None = None
    ) -> None:
        self._g = g
        self._rows = rows
        self._size = size
        self._own = own
        self._left = left
        self._name = name
        self._advancing = advancing
        self._biases: dict[tuple[int, ...], str] = {}

    @classmethod
    def from_input(cls, g: GraphBuilder, rows: str, size: int, length: str, frames: str, left_valid: str) -> Blocks:
        """The blocks of the graph's input.

        Args:
            g: the graph.
            rows: int64 [1], G.
            size: frames of a block.
            length: int64 [1], frames of the input.
            frames: int64 [1], how many of them exist.
            left_valid: bool [1], whether there is a block before the first one.
        """
        name = "/bias"
        zero, masked = g.const(0.0), g.const(_MASKED)
        frame = g.op("Range", [g.const(0), g.op("Squeeze", [length], f"{name}/scalar"), g.const(1)], f"{name}/frame")
        own = g.op("Where", [g.op("Less", [frame, frames], f"{name}/exists"), zero, masked], f"{name}/own")
        own = g.op("Reshape", [own, g.const([-1, size])], f"{name}/own/blocks")
        left = g.op("Where", [left_valid, zero, masked], f"{name}/left")
        left = g.op("Expand", [left, g.const([1, size])], f"{name}/left/block")
        return cls(g, rows, size, own, left, name)

    def with_held(self, held: str, hold: str, name: str) -> Blocks:
        """These blocks after the `held` ones; all but the last `hold` advance.

        Args:
            held: [G, held blocks, size, width].
            hold: int64 [1].
            name: path of the nodes.
        """
        g = self._g
        count = g.op("Shape", [held], f"{name}/count", start=1, end=2)
        shape = g.op("Concat", [count, g.const([self._size])], f"{name}/shape", axis=0)
        own = g.op("Concat", [g.op("ConstantOfShape", [shape], f"{name}/exist"), self._own], f"{name}/own", axis=0)
        count = g.op("Shape", [own], f"{name}/all", start=0, end=1)
        advancing = g.op("Sub", [count, hold], f"{name}/going")
        return Blocks(g, self._rows, self._size, own, self._left, name, advancing)

    def after_layer(self) -> Blocks:
        """The blocks that advance past this layer."""
        name = f"{self._name}/beyond"
        return Blocks(self._g, self._rows, self._size, self._first(self._own, 0, name), self._left, name)

    # -- values --------------------------------------------------------------------------------------------------

    def split(self, x: str, width: int, name: str) -> str:
        """[G * blocks, size, width] as [G, blocks, size, width]."""
        shape = self._g.op("Concat", [self._rows, self._g.const([-1, self._size, width])], f"{name}/shape", axis=0)
        return self._g.op("Reshape", [x, shape], name)

    def merged(self, x: str, width: int, name: str) -> str:
        """[G, blocks, size, width] as [G * blocks, size, width]."""
        return self._g.op("Reshape", [x, self._g.const([-1, self._size, width])], name)

    def advance(self, x: str, width: int, name: str) -> str:
        """`x` of the blocks that advance."""
        if self._advancing is None:
            return x
        first = self._first(self.split(x, width, f"{name}/split"), 1, f"{name}/first")
        return self.merged(first, width, name)

    def held(self, x: str, width: int, name: str) -> str:
        """`x` of the blocks that are held back: [G, blocks, size, width]."""
        assert self._advancing is not None
        x = self.split(x, width, f"{name}/split")
        return self._g.op("Slice", [x, self._advancing, self._g.const([_END]), self._g.const([1])], name)

    def windows(self, x: str, window: tuple[int, ...], width: int, left: str | None, name: str) -> str:
        """The window of each block that advances: [G * blocks, window * size, width].

        Args:
            x: the values.
            window: offsets of the window's blocks (-1, 0, 1), in order.
            width: of the values.
            left: [G, size, width], the values of the block before the first one; None without look-back.
            name: path of the nodes.
        """
        g = self._g
        zero, axis = g.const([0]), g.const([1])
        parts = []
        split = self.split(x, width, f"{name}/blocks")
        for offset in window:
            part = split
            if offset < 0:
                assert left is not None
                before = g.op("Unsqueeze", [left, axis], f"{name}/left")
                part = g.op("Slice", [part, zero, g.const([-1]), axis], f"{name}/earlier")
                part = g.op("Concat", [before, part], f"{name}/previous", axis=1)
            elif offset > 0:
                # The block after the last one is masked: any finite values will do.
                first = g.op("Slice", [part, zero, g.const([1]), axis], f"{name}/first")
                part = g.op("Slice", [part, g.const([1]), g.const([_END]), axis], f"{name}/later")
                part = g.op("Concat", [part, first], f"{name}/next", axis=1)
            parts.append(self._first(part, 1, f"{name}/{offset}/going"))
        return g.op(
            "Reshape",
            [g.op("Concat", parts, f"{name}/window", axis=2), g.const([-1, self._size * len(parts), width])],
            name,
        )

    def bias(self, window: tuple[int, ...]) -> str:
        """The bias of attention scores, for the blocks that advance: [G * blocks, 1, size, window * size]."""
        g, size = self._g, self._size
        if window not in self._biases:
            name = f"{self._name}/" + "_".join(str(offset) for offset in window)
            keys = g.op("Concat", [self._bias_at(offset) for offset in window], f"{name}/keys", axis=1)
            keys = g.op("Unsqueeze", [keys, g.const([0, 2])], f"{name}/broadcast")
            shape = g.op("Concat", [self._rows, g.const([1, size, 1])], f"{name}/shape", axis=0)
            keys = g.op("Expand", [keys, shape], f"{name}/rows")
            self._biases[window] = g.op("Reshape", [keys, g.const([-1, 1, size, size * len(window)])], name)
        return self._biases[window]

    def _bias_at(self, offset: int) -> str:
        """The bias [blocks that advance, size] of the block at `offset` from each."""
        g, zero = self._g, self._g.const([0])
        name = f"{self._name}/at/{offset}"
        bias = self._own
        if offset < 0:
            earlier = g.op("Slice", [bias, zero, g.const([-1]), zero], f"{name}/earlier")
            bias = g.op("Concat", [self._left, earlier], f"{name}/previous", axis=0)
        elif offset > 0:
            later = g.op("Slice", [bias, g.const([1]), g.const([_END]), zero], f"{name}/later")
            none = g.const(np.full((1, self._size), _MASKED, np.float32), "/bias/none")
            bias = g.op("Concat", [later, none], f"{name}/next", axis=0)
        return self._first(bias, 0, f"{name}/going")

    def _first(self, x: str, axis: int, name: str) -> str:
        """The blocks of `x` that advance, which are the first ones along `axis`."""
        if self._advancing is None:
            return x
        return self._g.op("Slice", [x, self._g.const([0]), self._advancing, self._g.const([axis])], name)
