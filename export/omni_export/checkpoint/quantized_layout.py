"""The bits of packed matrices: codes, zero points and scales as arrays of one number each.

Both layouts store the matrix transposed, [in, out], in int32. GPTQ packs neighbours along the input axis, the first
into the lowest bits. AWQ's GEMM layout packs along the output axis, in the order 0, 2, 4, 6, 1, 3, 5, 7. Zero points
are packed along the output axis in both.

A weight is (code - zero point) * scale of its group.

Sources: GPTQModel 7.7 (`nn_modules/qlinear/__init__.py`, `utils/model.py`), AutoAWQ 0.2.9 (`utils/packing_utils.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_export.checkpoint.quantized_config import PackedFormat, Packing

_WORD_BITS = 32
# The place in an int32 at which AWQ puts each of eight neighbours.
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class PackedTensors:
    """A matrix as the checkpoint stores it.

    Attributes:
        qweight: int32 [in * bits / 32, out], or for AWQ [in, out * bits / 32].
        qzeros: int32 [groups, out * bits / 32].
        scales: float16, or float32 values, [groups, out].
    """

    qweight: NDArray[np.int32]
    qzeros: NDArray[np.int32]
    scales: NDArray[Any]


@dataclass(frozen=True)
class UnpackedMatrix:
    """The same matrix, one number in each place, outputs first.

    Attributes:
        codes: uint8 [out, in].
        zeros: uint8 [out, groups].
        scales: of the checkpoint's dtype, [out, groups].
    """

    codes: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    scales: NDArray[Any]


def unpack_matrix(tensors: PackedTensors, packed: PackedFormat) -> UnpackedMatrix:
    """Takes a packed matrix apart."""
    codes = unpack_codes(tensors.qweight, packed)
    return UnpackedMatrix(codes, unpack_zeros(tensors.qzeros, packed), np.ascontiguousarray(tensors.scales.T))


def unpack_codes(qweight: NDArray[np.int32], packed: PackedFormat) -> NDArray[np.uint8]:
    """The codes, uint8 [out, in]."""
    if packed.packing is Packing.INPUT:
        return _unpack_last(np.ascontiguousarray(qweight.T), packed.bits)
    return np.ascontiguousarray(_awq_order(_unpack_last(qweight, packed.bits)).T)


def unpack_zeros(qzeros: NDArray[np.int32], packed: PackedFormat) -> NDArray[np.uint8]:
    """The zero points, uint8 [out, groups], with the offset that the format leaves out.

    The offset is added to whole words, as GPTQModel does: so a zero point of 0, stored as -1, comes back with the one
    that it borrowed from its neighbour.
    """
    words = qzeros.view(np.uint32)
    if packed.zero_offset:
        ones = sum(1 << place for place in range(0, _WORD_BITS, packed.bits))
        words = words + np.uint32(packed.zero_offset * ones)
    zeros = _unpack_last(words.view(np.int32), packed.bits)
    if packed.packing is Packing.OUTPUT:
        zeros = _awq_order(zeros)
    return np.ascontiguousarray(zeros.T)


def has_highest_zeros(qzeros: NDArray[np.int32], packed: PackedFormat) -> bool:
    """Whether a stored zero point has all its bits set, so that adding the offset carries into the next one."""
    return bool((_unpack_last(qzeros, packed.bits) == (1 << packed.bits) - 1).any())


def _unpack_last(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Numbers of `bits` bits [..., n * 32 / bits] of int32 [..., n], the lowest bits first."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    if bits == 8:
        return octets
    numbers = np.empty((*octets.shape, 2), np.uint8)
    np.bitwise_and(octets, 15, out=numbers[..., 0])
    np.right_shift(octets, 4, out=numbers[..., 1])
    return numbers.reshape(*octets.shape[:-1], -1)


def _awq_order(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Numbers of AWQ's int32 [..., n], in the order of the output axis."""
    words = numbers.reshape(*numbers.shape[:-1], -1, len(_AWQ_PLACES))
    return words[..., _AWQ_PLACES].reshape(numbers.shape)
