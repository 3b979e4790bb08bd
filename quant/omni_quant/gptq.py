"""GPTQ: quantizes a matrix column by column; later columns make up for the rounding errors of earlier ones.

The error of a row is (w - q) H (w - q)^T, where H are the second moments of the matrix's inputs. With H = R R^T and R
upper triangular it is the squared length of (w - q) R. Earlier columns with errors w[i] - q[i] leave the smallest error
where column j becomes w[j] + sum over i < j of (w[i] - q[i]) R[i, j] / R[j, j], which is then rounded. This is GPTQ
(arXiv 2210.17323) without inverting H (LDLQ, arXiv 2307.13304, shows that both are the same).

A group's scale and zero point are searched when its first column comes up, on the weights that would leave the smallest
error if nothing more were rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_quant import compiled
from omni_quant.blockwise import BlockwiseWeight, blockwise_weight
from omni_quant.group_search import Groups, quantize_groups

Array = NDArray[np.float32]

# Part of the mean second moment that is added to each column's own: what calibration data does not show still counts.
DAMPING = 0.01
# Rows quantized at a time: a column of them stays in the processor's first cache.
_ROWS = 2048


@dataclass(frozen=True)
class Feedback:
    """How errors spread within a block of a matrix's columns.

    Attributes:
        order: int64 [columns], the order in which columns are quantized; groups stay whole.
        shares: float32 [columns, columns] in that order, upper triangular: R[i, j] / R[j, j].
        within: float32 [columns / block_size, block_size, block_size], the inverse of the blocks on the diagonal of
            `shares`: what rounding column i takes from column j of the same group.
        importance: float32 [columns], in that order: of each column's squared error.
    """

    order: NDArray[np.int64]
    shares: Array
    within: Array
    importance: Array


def second_moments(inputs: Array) -> Array:
    """The mean of x^T x over inputs x, float32 [columns, columns], freed of most of the noise of few inputs.

    Products of different columns are reduced by the part of them that is noise, estimated from the inputs themselves.
    Without that, a few thousand tokens would make feedback worse than none. Source: Ledoit and Wolf (2004), on
    correlations as in Schaefer and Strimmer (2005).

    Args:
        inputs: float32 [tokens, columns].

    Raises:
        ValueError: the inputs are not finite.
    """
    tokens, columns = inputs.shape
    moments: Array = inputs.T @ inputs
    moments /= np.float32(tokens)
    diagonal = np.diagonal(moments).copy()
    if not np.isfinite(diagonal).all():
        raise ValueError("activations that are not finite")
    inverse = np.divide(1, diagonal, out=np.zeros_like(diagonal), where=diagonal > 0)
    used = np.count_nonzero(inverse)
    # Squares of each input's columns, relative to their mean.
    squares = np.square(inputs)
    squares *= inverse
    products = np.square(squares.sum(axis=1, dtype=np.float64)) - np.einsum("tc,tc->t", squares, squares)
    del squares
    correlated = float(np.einsum("ij,ij,i,j->", moments, moments, inverse, inverse, optimize=True)) - used
    if correlated > 0:
        noise = min(1.0, max(0.0, (float(products.mean()) - correlated) / (tokens * correlated)))
        moments *= np.float32(1 - noise)
        moments[np.diag_indices(columns)] = diagonal
    return moments


def feedback(moments: Array, block_size: int, damping: float = DAMPING) -> Feedback:
    """The feedback that second moments ask for.

    Args:
        moments: mean of x^T x over the inputs x, float32 or float64 [columns, columns].
        block_size: weights that share a scale; divides the number of columns.
        damping: see `DAMPING`.

    Raises:
        ValueError: the moments are not finite.
    """
    diagonal = np.diagonal(moments)
    if not np.isfinite(diagonal).all():
        raise ValueError("activations that are not finite")
    mean = float(diagonal.mean(dtype=np.float64)) or 1.0
    order = _by_size(diagonal, block_size)
    # Reversed, so that LAPACK's lower triangle becomes the upper one.
    damped = moments[np.ix_(order[::-1], order[::-1])]
    damped[np.diag_indices(len(damped))] += damping * mean
    importance = np.diagonal(damped)[::-1] / mean
    root = np.linalg.cholesky(damped)[::-1, ::-1]
    shares = root / np.diagonal(root)
    groups = len(shares) // block_size
    diagonal_blocks = shares.reshape(groups, block_size, groups, block_size)[range(groups), :, range(groups)]
    within = np.linalg.inv(diagonal_blocks.astype(np.float64)).astype(np.float32)
    return Feedback(order, shares.astype(np.float32, copy=False), within, importance.astype(np.float32))


def _by_size(diagonal: NDArray[np.floating], block_size: int) -> NDArray[np.int64]:
    """Columns by falling second moment: whole groups, then within each group. Early errors find most columns left."""
    grouped = diagonal.reshape(-1, block_size)
    inner = np.argsort(-grouped, axis=1, kind="stable") + np.arange(0, diagonal.size, block_size)[:, None]
    outer = np.argsort(-grouped.sum(axis=1), kind="stable")
    return inner[outer].ravel()


def quantize_with_feedback(
    read: Callable[[int, int], Array],
    rows: int,
    columns: int,
    feedbacks: Sequence[Feedback],
    *,
    bits: int,
    block_size: int,
    zero_points: bool,
    threads: int = 1,
) -> BlockwiseWeight:
    """Quantizes a matrix that is read a few rows at a time, with scales in float16.

    Args:
        read: (start, stop) -> float32 [stop - start, columns]; called from all threads.
        rows, columns: the matrix's shape.
        feedbacks: one for each block of columns, in order; together as many columns as whole groups take. Errors stay
            in their block.
        bits: 4 or 8.
        block_size: weights that share a scale.
        zero_points: give each group an integer zero point; for 4 bits only.
        threads: the result does not depend on their number.

    Raises:
        ValueError: the weights are not finite, or too large for float16 scales.
    """
    width = sum(len(block.order) for block in feedbacks)
    blocks = -(-columns // block_size)
    if width != blocks * block_size:
        raise ValueError(f"feedback for {width} columns, not for {blocks} groups of {block_size}")
    codes = np.empty((rows, blocks, block_size), np.uint8)
    scales = np.empty((rows, blocks), np.float16)
    zeros = np.empty((rows, blocks), np.uint8) if zero_points else None

    def quantize(start: int) -> None:
        stop = min(rows, start + _ROWS)
        values = np.pad(read(start, stop), ((0, 0), (0, width - columns)))
        first = 0
        for block in feedbacks:
            here = slice(first // block_size, (first + len(block.order)) // block_size)
            part = _quantize_rows(values[:, first : first + len(block.order)], block, bits, block_size, zero_points)
            codes[start:stop, here], scales[start:stop, here] = part.codes, part.scales
            if zeros is not None and part.zero_points is not None:
                zeros[start:stop, here] = part.zero_points
            first += len(block.order)

    starts = range(0, rows, _ROWS)
    with ThreadPoolExecutor(max(1, min(threads, len(starts)))) as pool:
        for _ in pool.map(quantize, starts):
            pass
    return blockwise_weight(Groups(codes, scales, zeros), columns, bits)


def _quantize_rows(values: Array, block: Feedback, bits: int, block_size: int, zero_points: bool) -> Groups:
    """Quantizes rows [rows, columns] of one block of columns."""
    rows, columns = values.shape
    # Columns are rows here: one column of all rows is contiguous.
    wanted = np.ascontiguousarray(values.T[block.order])
    errors = np.empty_like(wanted)
    codes = np.empty((columns, rows), np.uint8)
    scales = np.empty((columns // block_size, rows), np.float16)
    zeros = np.empty((columns // block_size, rows), np.uint8)
    for start in range(0, columns, block_size):
        here = slice(start, start + block_size)
        within = block.within[start // block_size]
        target = wanted[here].copy()
        if start:
            target += within.T @ (block.shares[:start, here].T @ errors[:start])
        group = quantize_groups(target.T[:, None], bits, True, zero_points, block.importance[None, here])
        scale = group.scales[:, 0].astype(np.float32)
        zero = group.zero_points[:, 0] if group.zero_points is not None else np.full(rows, 1 << (bits - 1), np.uint8)
        place = int(block.order[start]) // block_size
        scales[place], zeros[place] = group.scales[:, 0], zero
        codes[here], stored = _round_columns(target, within, scale, zero, bits)
        np.subtract(wanted[here], stored, out=errors[here])
    ordered = np.empty_like(codes)
    ordered[block.order] = codes
    grouped = ordered.T.reshape(rows, -1, block_size)
    return Groups(grouped, scales.T, zeros.T if zero_points else None)


def _round_columns(
    target: Array, within: Array, scale: Array, zero: NDArray[np.uint8], bits: int
) -> tuple[NDArray[np.uint8], Array]:
    """Rounds a group's columns one after the other; returns codes uint8 and values float32, [block_size, rows].

    Args:
        target: float32 [block_size, rows], weights with the feedback of earlier groups; overwritten.
        within: float32 [block_size, block_size], feedback within the group.
        scale: float32 [rows].
        zero: uint8 [rows].
        bits: 4 or 8.
    """
    found = compiled.round_columns(target, within, scale, zero, bits)
    if found is not None:
        return found
    inverse, middle = 1 / scale, zero.astype(np.float32)
    low, high = -middle, ((1 << bits) - 1) - middle
    signed, stored = np.empty_like(target), np.empty_like(target)
    for column in range(len(target)):
        code = np.multiply(target[column], inverse, out=signed[column])
        np.rint(code, out=code)
        np.clip(code, low, high, out=code)
        value = np.multiply(code, scale, out=stored[column])
        if column + 1 < len(target):
            target[column + 1 :] -= within[column, column + 1 :, None] * (target[column] - value)
    signed += middle
    return signed.astype(np.uint8), stored
