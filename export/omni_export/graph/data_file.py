"""The external data file of a graph: the place of each large weight, and writing in bounded memory.

A weight is read and converted while the previous one is hashed and written. At most two are in memory at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

TensorSpec = tuple[str, np.dtype[Any], tuple[int, ...]]
"""Name, dtype and shape of a tensor."""
Produce = Callable[[], Iterable[NDArray[Any]]]

ELEMENT_TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int16": TensorProto.INT16,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
# onnxruntime maps a tensor from its file where it starts on a page. It copies small ones anyway: these stay packed.
_PAGE_BYTES = 4096
_ALIGNMENT_BYTES = 64
_PAGE_ALIGNED_FROM_BYTES = 16 * _PAGE_BYTES
# Hashed and written at a time, while the piece is in the processor's cache.
_PIECE_BYTES = 1 << 20


@dataclass
class _Group:
    """Tensors that `produce` yields together, such as a packed matrix and its scales.

    Attributes:
        protos: the tensors' entries in the graph.
        produce: reads and converts them.
        nbytes: of each tensor.
        weights: the checkpoint's weights that they stand for.
        offsets: of each tensor in the file, bytes.
    """

    protos: list[TensorProto]
    produce: Produce
    nbytes: list[int]
    weights: int
    offsets: list[int] = field(default_factory=list)


class DataFile:
    """The large weights of one graph, in the order in which they were added."""

    def __init__(self) -> None:
        self._groups: list[_Group] = []

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, without the padding between them."""
        return sum(sum(group.nbytes) for group in self._groups)

    @property
    def weights(self) -> int:
        """Weights that are read and converted: the time of writing is proportional to them, whatever the format."""
        return sum(group.weights for group in self._groups)

    def add(self, tensors: Sequence[TensorSpec], produce: Produce, weights: int | None = None) -> list[TensorProto]:
        """Adds tensors that `produce` will yield together; returns their entries for the graph.

        Args:
            tensors: the tensors, in the order in which `produce` yields them.
            produce: called once, when the file is written.
            weights: the number of weights that they stand for; None: that of the largest tensor.
        """
        sizes = [int(np.prod(shape, dtype=np.int64)) for _, _, shape in tensors]
        protos = [
            TensorProto(name=name, dims=shape, data_type=ELEMENT_TYPES[dtype.name], data_location=TensorProto.EXTERNAL)
            for name, dtype, shape in tensors
        ]
        nbytes = [size * dtype.itemsize for size, (_, dtype, _) in zip(sizes, tensors, strict=True)]
        self._groups.append(_Group(protos, produce, nbytes, weights or max(sizes)))
        return protos

    def lay_out(self, location: str) -> None:
        """Gives every tensor its place in the file `location`. Nothing is read for it."""
        end = 0
        for group in self._groups:
            group.offsets.clear()
            for proto, nbytes in zip(group.protos, group.nbytes, strict=True):
                unit = _PAGE_BYTES if nbytes >= _PAGE_ALIGNED_FROM_BYTES else _ALIGNMENT_BYTES
                offset = -(-end // unit) * unit
                end = offset + nbytes
                group.offsets.append(offset)
                del proto.external_data[:]
                for key, value in (("location", location), ("offset", offset), ("length", nbytes)):
                    proto.external_data.add(key=key, value=str(value))

    def write(self, path: Path, progress: Callable[[int, int], None]) -> str:
        """Writes every tensor at its place; returns the file's SHA-256 (hex).

        Args:
            path: the file.
            progress: called with the number of bytes just written, and of weights that they stand for.

        Raises:
            OSError: the disk is full or not writable.
        """
        digest = hashlib.sha256()
        with path.open("wb") as file, ThreadPoolExecutor(1) as writer:

            def write(group: _Group, arrays: list[NDArray[Any]]) -> None:
                for offset, array in zip(group.offsets, arrays, strict=True):
                    for content in (memoryview(bytes(offset - file.tell())), array.reshape(-1).view(np.uint8).data):
                        for start in range(0, len(content), _PIECE_BYTES):
                            piece = content[start : start + _PIECE_BYTES]
                            digest.update(piece)
                            file.write(piece)

            writing: Future[None] | None = None
            for group in self._groups:
                arrays = [np.ascontiguousarray(array) for array in group.produce()]
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, group, arrays)
                progress(sum(group.nbytes), group.weights)
            if writing is not None:
                writing.result()
        return digest.hexdigest()
