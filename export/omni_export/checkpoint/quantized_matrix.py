"""A matrix that the checkpoint stores quantized: its tensors checked, its codes taken over as they are.

With act-order (`g_idx`) the columns of a group are scattered over the input axis. The matrix is then read with its
columns in the order of their groups, and its product takes the activations in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.quantized_config import PackedFormat, Packing
from omni_export.checkpoint.quantized_layout import (
    PackedTensors,
    UnpackedMatrix,
    has_highest_zeros,
    unpack_matrix,
    unpack_zeros,
)
from omni_export.checkpoint.stored_tensor import StoredTensor
from omni_quant import BlockwiseWeight, Groups, blockwise_weight
from omni_quant.precision import GROUP_SIZES

QWEIGHT, QZEROS, SCALES, G_IDX = "qweight", "qzeros", "scales", "g_idx"
_WORD_BITS = 32
_REMEDY = "Download the checkpoint again, or export the bf16 checkpoint that it was made from."

Order = NDArray[np.int64]


@dataclass(frozen=True)
class QuantizedMatrix:
    """A quantized matrix that is read whenever it is needed and kept nowhere.

    Attributes:
        name: of the module, for messages.
        shape: [out, in], with all activations that the product takes.
        bits: of a code, 4 or 8.
        group_size: weights that share a scale.
        order: int64 [columns], the place in the activations of each column of the codes; None: their own.
        read: the whole matrix, columns in the order of their groups.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    group_size: int
    order: Order | None
    read: Callable[[], UnpackedMatrix]

    @property
    def columns(self) -> int:
        """Columns of the codes."""
        return self.shape[1] if self.order is None else len(self.order)

    @property
    def block_size(self) -> int:
        """The largest of `GROUP_SIZES` that the groups can be cut into; every smaller one fits as well."""
        if self.group_size >= self.columns:
            return max(size for size in GROUP_SIZES if size <= max(self.columns, GROUP_SIZES[0]))
        return max(size for size in GROUP_SIZES if self.group_size % size == 0)

    def blockwise(self, block_size: int) -> BlockwiseWeight:
        """The matrix in blocks of `block_size`: the same codes; scales and zero points repeated where groups are cut.

        Scales that are no float16 numbers are rounded to them. 8-bit matrices have their zero points at half the range.
        """
        matrix = self.read()
        rows, columns = matrix.codes.shape
        blocks = -(-columns // block_size)
        group = np.arange(blocks) * block_size // self.group_size
        zeros = matrix.zeros[:, group]
        # Codes beyond the last column stand for 0.
        codes = np.repeat(zeros[:, -1:], blocks * block_size, axis=1)
        codes[:, :columns] = matrix.codes
        groups = Groups(
            codes.reshape(rows, blocks, block_size),
            np.ascontiguousarray(matrix.scales[:, group], np.float16),
            np.ascontiguousarray(zeros) if self.bits == 4 else None,
        )
        return blockwise_weight(groups, columns, self.bits)

    def dequantize(self) -> NDArray[np.float32]:
        """The values, float32 [out, in], columns as the activations have them; zeros where there is none."""
        matrix = self.read()
        group = np.arange(self.columns) // self.group_size
        values = matrix.codes.astype(np.float32)
        values -= matrix.zeros[:, group]
        values *= matrix.scales[:, group].astype(np.float32)
        if self.order is None:
            return values
        ordered = np.zeros(self.shape, np.float32)
        ordered[:, self.order] = values
        return ordered

    def spread_rows(self, places: NDArray[np.intp], rows: int) -> QuantizedMatrix:
        """The matrix of `rows` rows that has row i of this one at `places[i]`, and zeros elsewhere."""

        def read() -> UnpackedMatrix:
            matrix = self.read()
            half = 1 << (self.bits - 1)
            codes = np.full((rows, matrix.codes.shape[1]), half, np.uint8)
            zeros = np.full((rows, matrix.zeros.shape[1]), half, np.uint8)
            scales = np.ones((rows, matrix.scales.shape[1]), matrix.scales.dtype)
            codes[places], zeros[places], scales[places] = matrix.codes, matrix.zeros, matrix.scales
            return UnpackedMatrix(codes, zeros, scales)

        return replace(self, shape=(rows, self.shape[1]), read=read)

    def spread_columns(self, places: NDArray[np.intp], columns: int) -> QuantizedMatrix:
        """The matrix for `columns` activations that have at `places[i]` what column i multiplies."""
        order = places if self.order is None else places[self.order]
        return replace(self, shape=(self.shape[0], columns), order=order.astype(np.int64))

    def is_stackable_on(self, other: QuantizedMatrix) -> bool:
        """Whether both are packed alike and take their activations in the same order."""
        same_order = (self.order is None) == (other.order is None)
        if same_order and self.order is not None and other.order is not None:
            same_order = np.array_equal(self.order, other.order)
        sizes = (self.shape[1], self.bits, self.group_size)
        return same_order and sizes == (other.shape[1], other.bits, other.group_size)


def stack(parts: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """The rows of stackable parts, one after the other."""

    def read() -> UnpackedMatrix:
        matrices = [part.read() for part in parts]
        return UnpackedMatrix(
            np.concatenate([matrix.codes for matrix in matrices]),
            np.concatenate([matrix.zeros for matrix in matrices]),
            np.concatenate([matrix.scales for matrix in matrices]),
        )

    return replace(parts[0], shape=(sum(part.shape[0] for part in parts), parts[0].shape[1]), read=read)


def count_rounded(scales: StoredTensor) -> int:
    """The number of scales that float16 does not hold exactly.

    Raises:
        CheckpointError: a scale is not finite, or too large for float16.
    """
    values = scales.load()
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise CheckpointError(f"{scales.name} has scales that are not finite, or too large for float16. {_REMEDY}")
    return int(np.count_nonzero(rounded != values))


def open_matrix(
    name: str, tensors: Mapping[str, StoredTensor], packed: PackedFormat, *, zeros_wrap: bool
) -> QuantizedMatrix:
    """The matrix of module `name`; its groups and zero points are read and checked, its codes are not read yet.

    Args:
        name: of the module, for messages.
        tensors: QWEIGHT, QZEROS, SCALES and, with `packed.act_order`, G_IDX.
        packed: how it is packed.
        zeros_wrap: see `QuantizedConfig`.

    Raises:
        CheckpointError: a tensor is missing, or does not fit the others or the format.
    """
    needed = (QWEIGHT, QZEROS, SCALES, *([G_IDX] if packed.act_order else []))
    for part in needed:
        if part not in tensors:
            raise CheckpointError(f"The checkpoint has no tensor {name}.{part}, which its matrix needs. {_REMEDY}")
    rows, columns = _shape(name, tensors[QWEIGHT], packed)
    group_size = min(packed.group_size or columns, columns)
    groups = -(-columns // group_size)
    if groups > 1 and group_size % GROUP_SIZES[0]:
        raise CheckpointError(
            f"{name} is quantized in groups of {group_size}; supported are multiples of {GROUP_SIZES[0]}. "
            "Export the bf16 checkpoint that it was made from."
        )
    _expect(name, tensors[QZEROS], (groups, rows * packed.bits // _WORD_BITS), ("I32",))
    _expect(name, tensors[SCALES], (groups, rows), ("F16", "BF16", "F32"))
    count_rounded(tensors[SCALES])
    _check_zeros(name, tensors[QZEROS].load(), packed, zeros_wrap)
    order = None
    if packed.packing is Packing.INPUT and G_IDX in tensors:
        _expect(name, tensors[G_IDX], (columns,), ("I32", "I64"))
        order = _order(name, tensors[G_IDX].load(), group_size, groups)

    def read() -> UnpackedMatrix:
        loaded = PackedTensors(*(tensors[part].load() for part in (QWEIGHT, QZEROS, SCALES)))
        matrix = unpack_matrix(loaded, packed)
        return matrix if order is None else replace(matrix, codes=matrix.codes[:, order])

    return QuantizedMatrix(name, (rows, columns), packed.bits, group_size, order, read)


def _shape(name: str, qweight: StoredTensor, packed: PackedFormat) -> tuple[int, int]:
    """The matrix's shape [out, in], from that of its packed codes."""
    if qweight.dtype != "I32" or len(qweight.shape) != 2 or 0 in qweight.shape:
        raise CheckpointError(
            f"{name}.{QWEIGHT} is {qweight.dtype} {list(qweight.shape)}; it must be int32 of two dimensions. {_REMEDY}"
        )
    per_word = _WORD_BITS // packed.bits
    first, last = qweight.shape
    rows, columns = (last, first * per_word) if packed.packing is Packing.INPUT else (last * per_word, first)
    if rows % per_word:
        raise CheckpointError(f"{name} has {rows} outputs; packed matrices have a multiple of {per_word}. {_REMEDY}")
    return rows, columns


def _expect(name: str, tensor: StoredTensor, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    if tensor.dtype not in dtypes or tensor.shape != shape:
        raise CheckpointError(
            f"{tensor.name} is {tensor.dtype} {list(tensor.shape)}; {name} in its format needs {' or '.join(dtypes)} "
            f"{list(shape)}. The quantization config and the weights do not belong together. {_REMEDY}"
        )


def _check_zeros(name: str, qzeros: NDArray[np.int32], packed: PackedFormat, zeros_wrap: bool) -> None:
    if packed.zero_offset and not zeros_wrap and has_highest_zeros(qzeros, packed):
        raise CheckpointError(
            f"{name}.{QZEROS} has zero points of -1, which programs read differently: this asymmetric matrix is in the "
            "first version of the GPTQ format and was not made by GPTQModel. Export a checkpoint with the format "
            "gptq_v2, or the bf16 checkpoint that it was made from."
        )
    if packed.bits == 8 and (unpack_zeros(qzeros, packed) != 1 << (packed.bits - 1)).any():
        raise CheckpointError(
            f"{name} has asymmetric weights of 8 bits; supported are symmetric ones. "
            "Export the bf16 checkpoint that it was made from."
        )


def _order(name: str, g_idx: NDArray[np.int64], group_size: int, groups: int) -> Order | None:
    """The columns in the order of their groups; None where they are in this order already."""
    columns = len(g_idx)
    ordered = np.arange(columns) // group_size
    if np.array_equal(g_idx, ordered):
        return None
    order = np.argsort(g_idx, kind="stable")
    if not np.array_equal(g_idx[order], ordered):
        raise CheckpointError(
            f"{name}.{G_IDX} does not put {columns} columns into {groups} groups of {group_size}. {_REMEDY}"
        )
    return order.astype(np.int64)
