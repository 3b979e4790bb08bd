"""Weights that are read when they are written, which keeps an export in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class LazyTensor:
    """A float32 tensor that is read whenever it is needed and kept nowhere.

    Attributes:
        name: the tensor's name in the checkpoint, for messages.
        shape: known without reading.
        read: reads rows [start, stop) of the first axis, converted to float32.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Array]

    def load(self) -> Array:
        """The whole tensor."""
        return self.read(0, self.shape[0])

    def map(self, function: Callable[[Array], Array], shape: tuple[int, ...] | None = None) -> LazyTensor:
        """This tensor with `function` applied to all of it; `shape` names the result's shape where it differs."""
        return LazyTensor(self.name, shape or self.shape, lambda start, stop: function(self.load())[start:stop])

    @staticmethod
    def wrap(array: Array, name: str = "constant") -> LazyTensor:
        """The tensor of values that are in memory already."""
        return LazyTensor(name, array.shape, lambda start, stop: array[start:stop])

    @staticmethod
    def stack(parts: Sequence[LazyTensor]) -> LazyTensor:
        """The parts one after the other along the first axis."""
        ends = np.cumsum([part.shape[0] for part in parts])

        def read(start: int, stop: int) -> Array:
            pieces = []
            for part, end in zip(parts, ends.tolist(), strict=True):
                begin = end - part.shape[0]
                low, high = max(start, begin), min(stop, end)
                if low < high:
                    pieces.append(part.read(low - begin, high - begin))
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

        return LazyTensor(parts[0].name, (int(ends[-1]), *parts[0].shape[1:]), read)
