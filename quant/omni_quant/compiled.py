"""The inner loops of quantization in C: `quantize_groups.c` among the runtime's operators.

Each function returns None where no library is compiled; the caller then does the same with numpy.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The widest group that the library takes.
_LARGEST_SIZE = 256
# Why weights have no scales.
NO_SCALES = "weights that are not finite, or too large for scales in float16"


def quantize_groups(
    grouped: NDArray[np.float32], bits: int, importance: NDArray[np.float32] | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]] | None:
    """Codes, scales and zero points of groups; see `group_search.quantize_groups`.

    Args:
        grouped: float32 [rows, blocks, block_size] of any strides.
        bits: 4 or 8.
        importance: float32 [blocks, block_size] or None.

    Returns:
        uint8 [rows, blocks, block_size], float32 [rows, blocks] that are values of float16, uint8 [rows, blocks].

    Raises:
        ValueError: a weight is not finite, or a scale is too large for float16.
    """
    rows, blocks, size = grouped.shape
    library = _library(size)
    if library is None:
        return None
    if blocks > 1 and grouped.strides[1] != size * grouped.strides[2]:
        grouped = np.ascontiguousarray(grouped)
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    codes, scales = np.empty(grouped.shape, np.uint8), np.empty((rows, blocks), np.float32)
    zeros = np.empty((rows, blocks), np.uint8)
    row_stride, _, column_stride = (stride // grouped.itemsize for stride in grouped.strides)
    failed = library.omni_quantize_groups(
        _pointer(grouped),
        ctypes.c_int64(row_stride),
        ctypes.c_int64(column_stride),
        _pointer(importance),
        ctypes.c_int64(rows),
        ctypes.c_int64(blocks),
        ctypes.c_int64(size),
        bits,
        _pointer(codes),
        _pointer(scales),
        _pointer(zeros),
    )
    if failed:
        raise ValueError(NO_SCALES)
    return codes, scales, zeros


def round_columns(
    target: NDArray[np.float32],
    within: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero: NDArray[np.uint8],
    bits: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]] | None:
    """Codes uint8 and values float32, [block_size, rows], of a group's columns; see `gptq`.

    Args:
        target: float32 [block_size, rows].
        within: float32 [block_size, block_size].
        scale: float32 [rows].
        zero: uint8 [rows].
        bits: 4 or 8.
    """
    size, rows = target.shape
    library = _library(size)
    if library is None:
        return None
    codes, values = np.empty(target.shape, np.uint8), np.empty(target.shape, np.float32)
    # Named, so that they live until the library has read them.
    target, within, scale, zero = map(np.ascontiguousarray, (target, within, scale, zero))
    library.omni_round_columns(
        _pointer(target),
        _pointer(within),
        _pointer(scale),
        _pointer(zero),
        ctypes.c_int64(rows),
        ctypes.c_int64(size),
        bits,
        _pointer(codes),
        _pointer(values),
    )
    return codes, values


def _library(size: int) -> ctypes.CDLL | None:
    """The library, where there is one and it takes groups of `size`."""
    from omni_edge.backend import kernels  # noqa: PLC0415 -- it imports onnxruntime, which tables of recipes do not need

    return kernels.functions() if size <= _LARGEST_SIZE else None


def _pointer(array: NDArray[Any] | None) -> ctypes.c_void_p:
    return ctypes.c_void_p() if array is None else array.ctypes.data_as(ctypes.c_void_p)
