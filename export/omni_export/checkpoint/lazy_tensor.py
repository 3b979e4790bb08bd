"""Weights that are read when they are written, which keeps an export in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_export.checkpoint import quantized_matrix
from omni_export.checkpoint.quantized_matrix import QuantizedMatrix

Array = NDArray[np.float32]


@dataclass(frozen=True)
class LazyTensor:
    """A float32 tensor that is read whenever it is needed and kept nowhere.

    Attributes:
        name: the tensor's name in the checkpoint, for messages.
        shape: known without reading.
        read: reads rows [start, stop) of the first axis, converted to float32.
        quantized: the same matrix as the checkpoint stores it, quantized already; its values are those of `read`.
        parts: rows of a stack that are quantized, but not all in the same way.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Array]
    quantized: QuantizedMatrix | None = None
    parts: tuple[LazyTensor, ...] = ()

    def load(self) -> Array:
        """The whole tensor."""
        return self.read(0, self.shape[0])

    def map(self, function: Callable[[Array], Array], shape: tuple[int, ...] | None = None) -> LazyTensor:
        """This tensor with `function` applied to all of it; `shape` names the result's shape where it differs.

        The result is not quantized.
        """
        return LazyTensor(self.name, shape or self.shape, lambda start, stop: function(self.load())[start:stop])

    @staticmethod
    def wrap(array: Array, name: str = "constant") -> LazyTensor:
        """The tensor of values that are in memory already."""
        return LazyTensor(name, array.shape, lambda start, stop: array[start:stop])

    @staticmethod
    def wrap_quantized(name: str, matrix: QuantizedMatrix) -> LazyTensor:
        """The tensor of a matrix that is quantized already."""
        return LazyTensor(name, matrix.shape, lambda start, stop: matrix.dequantize()[start:stop], matrix)

    def spread_rows(self, places: NDArray[np.intp], rows: int) -> LazyTensor:
        """The tensor of `rows` rows that has row i of this one at `places[i]`, and zeros elsewhere."""
        if self.quantized is not None:
            return LazyTensor.wrap_quantized(self.name, self.quantized.spread_rows(places, rows))

        def spread(array: Array) -> Array:
            result = np.zeros((rows, *array.shape[1:]), array.dtype)
            result[places] = array
            return result

        return self.map(spread, (rows, *self.shape[1:]))

    def spread_columns(self, places: NDArray[np.intp], columns: int) -> LazyTensor:
        """The matrix for `columns` activations, where column i of this one multiplies the one at `places[i]`.

        The other columns are zeros. A quantized matrix stays as it is; its product takes the activations at `places`.
        """
        if self.quantized is not None:
            return LazyTensor.wrap_quantized(self.name, self.quantized.spread_columns(places, columns))

        def spread(array: Array) -> Array:
            result = np.zeros((len(array), columns), array.dtype)
            result[:, places] = array
            return result

        return self.map(spread, (self.shape[0], columns))

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

        shape = (int(ends[-1]), *parts[0].shape[1:])
        matrices = [part.quantized for part in parts if part.quantized is not None]
        if not matrices:
            return LazyTensor(parts[0].name, shape, read)
        if len(matrices) == len(parts) and all(matrix.is_stackable_on(matrices[0]) for matrix in matrices):
            return LazyTensor(parts[0].name, shape, read, quantized_matrix.stack(matrices))
        return LazyTensor(parts[0].name, shape, read, parts=tuple(parts))
