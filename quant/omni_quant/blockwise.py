"""INT4 and INT8 in groups along the input axis: each group has a scale and, optionally, an integer zero point.

The layout is that of ONNX Runtime's `MatMulNBits` (packed `[N, blocks, bytes]`) and `GatherBlockQuantized`
(packed `[N, bytes]`). A value is (code - zero point) * scale; without zero points they are half the range.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_quant.group_search import Groups, quantize_groups

# Weights read at a time, and weights searched at a time. Larger pieces leave the processor's cache. Pieces a quarter as
# large make two threads wait for each other's Python.
_READ_VALUES = 1 << 20
_CHUNK_VALUES = 1 << 18


@dataclass(frozen=True)
class BlockwiseWeight:
    """A quantized matrix.

    Attributes:
        packed: uint8 `[rows, blocks, block_size * bits / 8]`; for 4 bits the even column is the low nibble.
        scales: `[rows, blocks]`, float16, or float32 in bundles of older versions.
        columns: input features before padding to whole blocks.
        bits: 4 or 8.
        block_size: weights that share a scale.
        zero_points: the code of the value 0, uint8 `[rows, ceil(blocks * bits / 8)]`; for 4 bits the even block is the
            low nibble. None: half the range.
    """

    packed: NDArray[np.uint8]
    scales: NDArray[np.float16] | NDArray[np.float32]
    columns: int
    bits: int
    block_size: int
    zero_points: NDArray[np.uint8] | None = None


def quantize_blockwise(
    weight: NDArray[np.float32],
    *,
    bits: int,
    block_size: int,
    float16_scales: bool = False,
    zero_points: bool = False,
    importance: NDArray[np.float32] | None = None,
) -> BlockwiseWeight:
    """Quantizes `weight` float32 [rows, columns]. See `quantize_blockwise_rows`."""
    return quantize_blockwise_rows(
        lambda start, stop: weight[start:stop],
        weight.shape[0],
        weight.shape[1],
        bits=bits,
        block_size=block_size,
        float16_scales=float16_scales,
        zero_points=zero_points,
        importance=importance,
    )


def quantize_blockwise_rows(
    read: Callable[[int, int], NDArray[np.float32]],
    rows: int,
    columns: int,
    *,
    bits: int,
    block_size: int,
    float16_scales: bool = False,
    zero_points: bool = False,
    importance: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> BlockwiseWeight:
    """Quantizes a matrix that is read a few rows at a time; columns are padded with zeros to whole blocks.

    Args:
        read: (start, stop) -> float32 [stop - start, columns]; called from all threads.
        rows, columns: the matrix's shape.
        bits: 4 or 8.
        block_size: weights that share a scale.
        float16_scales: store scales in float16; codes are chosen for the rounded scales.
        zero_points: give each group an integer zero point; for 4 bits only.
        importance: of each column's squared error, float32 [columns] >= 0: the second moment of its activations. None:
            all columns count the same.
        threads: the result does not depend on their number.

    Raises:
        ValueError: the weights are not finite, or too large for float16 scales.
    """
    blocks = -(-columns // block_size)
    packed = np.empty((rows, blocks, block_size * bits // 8), np.uint8)
    scales = np.empty((rows, blocks), np.float16 if float16_scales else np.float32)
    zeros = np.empty((rows, -(-blocks * bits // 8)), np.uint8) if zero_points else None
    step = max(1, _READ_VALUES // (blocks * block_size))
    step_blocks = max(1, _CHUNK_VALUES // (min(step, rows) * block_size))
    padding = blocks * block_size - columns
    weights = None if importance is None else np.pad(importance, (0, padding)).reshape(blocks, block_size)

    def quantize(start: int) -> None:
        rows_here = slice(start, min(rows, start + step))
        values = read(rows_here.start, rows_here.stop)
        if padding:
            values = np.pad(values, ((0, 0), (0, padding)))
        values = values.reshape(-1, blocks, block_size)
        found = np.empty((len(values), blocks), np.uint8)
        for first in range(0, blocks, step_blocks):
            here = slice(first, first + step_blocks)
            importance_here = None if weights is None else weights[here]
            groups = quantize_groups(values[:, here], bits, float16_scales, zero_points, importance_here)
            packed[rows_here, here] = pack(groups.codes, bits)
            scales[rows_here, here] = groups.scales
            if groups.zero_points is not None:
                found[:, here] = groups.zero_points
        if zeros is not None:
            zeros[rows_here] = pack(found, bits)

    starts = range(0, rows, step)
    if threads == 1 or len(starts) == 1:
        for start in starts:
            quantize(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(quantize, starts):
                pass
    return BlockwiseWeight(packed, scales, columns, bits, block_size, zeros)


def blockwise_weight(groups: Groups, columns: int, bits: int) -> BlockwiseWeight:
    """Packs the groups of a whole matrix of `columns` input features."""
    zeros = None if groups.zero_points is None else pack(groups.zero_points, bits)
    return BlockwiseWeight(pack(groups.codes, bits), groups.scales, columns, bits, groups.codes.shape[-1], zeros)


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Packs codes [..., n] of 4 or 8 bits into bytes; for 4 bits the even one into the low nibble, n padded to even."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
    pairs = np.ascontiguousarray(codes).view("<u2")
    packed: NDArray[np.uint8] = (pairs | (pairs >> 4)).astype(np.uint8)
    return packed


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The codes [..., n] of bytes that `pack` made."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def dequantize_blockwise(quantized: BlockwiseWeight) -> NDArray[np.float32]:
    """The matrix of packed weights, float32 [rows, columns]."""
    rows, blocks = quantized.scales.shape
    codes = unpack(quantized.packed, quantized.bits).astype(np.float32)
    if quantized.zero_points is None:
        codes -= 1 << (quantized.bits - 1)
    else:
        codes -= unpack(quantized.zero_points, quantized.bits)[:, :blocks, None]
    codes *= quantized.scales[..., None]
    return codes.reshape(rows, -1)[:, : quantized.columns]
