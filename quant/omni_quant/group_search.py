"""Scales, zero points and codes of groups of weights, chosen for the least squared error.

A zero point is an integer. So it moves no code between two values, and only shifts the range that codes are clipped to:
a scale alone determines the best zero point, and the search is over scales. Source: NeUQI (arXiv 2505.17595), whose
search this is with few candidates, and llama.cpp's refinement of the best one by least squares.

Arrays are computed on as [blocks, block_size, rows], so that every operation is over long rows. Where the runtime's
operators are compiled, their library does the same (`compiled`), with the same result to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_quant import compiled

Values = NDArray[np.float32]

# Candidates for scales: parts of the scale that reaches from the least value to the largest, then parts of the best one
# of these. They gain 0.4 dB over the full scale; sixty candidates gain less than 0.1 dB more.
_PARTS = (1.0, 1.05, 0.95, 0.9)
_FINE_PARTS = (0.98, 1.02)
_SMALLEST_FLOAT16, _LARGEST_FLOAT16 = np.float32(2.0**-24), np.float32(65504)


@dataclass(frozen=True)
class Groups:
    """Quantized groups; the value of a code is (code - zero point) * scale.

    Attributes:
        codes: uint8 [rows, blocks, block_size].
        scales: float16 or float32 [rows, blocks].
        zero_points: uint8 [rows, blocks]; None: half the range.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16] | NDArray[np.float32]
    zero_points: NDArray[np.uint8] | None = None


def quantize_groups(
    grouped: Values, bits: int, float16_scales: bool, zero_points: bool, importance: Values | None = None
) -> Groups:
    """Quantizes groups of weights.

    Args:
        grouped: float32 [rows, blocks, block_size].
        bits: 4 or 8.
        float16_scales: round the scales to float16 before the codes are chosen; always done with zero points.
        zero_points: choose an integer zero point for each group.
        importance: of each column's squared error, float32 [blocks, block_size] >= 0; None: all count the same. It has
            no effect without zero points.

    Raises:
        ValueError: a weight is not finite, or a scale is too large for float16.
    """
    if not zero_points:
        return _symmetric(grouped, bits, float16_scales)
    found = compiled.quantize_groups(grouped, bits, importance)
    if found is not None:
        codes, wide_scales, zeros = found
        return Groups(codes, wide_scales.astype(np.float16), zeros)
    rows, blocks, size = grouped.shape
    largest = (1 << bits) - 1
    values = np.array(grouped.reshape(rows, -1).T, order="C").reshape(blocks, size, rows)
    scales, lowest = _Search(values, largest, importance).best()
    values *= (1 / scales)[:, None]
    values -= lowest[:, None]
    np.rint(values, out=values)
    codes = np.clip(values, 0, largest, out=values).astype(np.uint8)
    return Groups(
        np.ascontiguousarray(codes.reshape(-1, rows).T).reshape(grouped.shape),
        np.ascontiguousarray(scales.astype(np.float16).T),
        np.ascontiguousarray((-lowest).astype(np.uint8).T),
    )


def _symmetric(grouped: Values, bits: int, float16_scales: bool) -> Groups:
    """Groups whose value of the largest magnitude has the most negative code.

    So the whole signed range is used, as in llama.cpp's Q4_0.
    """
    low, high = grouped.min(-1), grouped.max(-1)
    half = 1 << (bits - 1)
    scales = (np.where(high > -low, high, low) / -half).astype(np.float32)
    if float16_scales:
        scales = _representable(scales)
    else:
        scales[scales == 0] = 1.0
    codes = grouped * (1 / scales)[..., None]
    np.rint(codes, out=codes)
    np.clip(codes, -half, half - 1, out=codes)
    codes += half
    return Groups(codes.astype(np.uint8), scales.astype(np.float16) if float16_scales else scales)


class _Search:
    """The search for scales and zero points of groups.

    Args:
        values: float32 [blocks, block_size, rows].
        largest: the largest code.
        importance: float32 [blocks, block_size] or None.
    """

    def __init__(self, values: Values, largest: int, importance: Values | None) -> None:
        self._values = values
        self._largest = np.float32(largest)
        self._importance = importance
        self._low, self._high = np.minimum(values.min(1), 0), np.maximum(values.max(1), 0)
        self._scaled, self._codes = np.empty_like(values), np.empty_like(values)
        self._error = np.full_like(self._low, np.inf)
        self._scales, self._lowest = np.ones_like(self._low), np.zeros_like(self._low)

    def best(self) -> tuple[Values, Values]:
        """Scales and lowest codes (the negative zero points), both float32 [blocks, rows]."""
        full = _representable((self._high - self._low) / self._largest)
        for part in _PARTS:
            self._try_scales(full * np.float32(part))
        found = self._scales.copy()
        for part in _FINE_PARTS:
            self._try_scales(found * np.float32(part))
        return self._scales, self._lowest

    def _try_scales(self, scales: Values) -> None:
        """Takes `scales` with their best zero points where they are better than the best ones until now."""
        scales = _representable(np.minimum(scales, _LARGEST_FLOAT16))
        inverse: Values = np.reciprocal(scales)
        lowest, highest = np.rint(self._low * inverse), np.rint(self._high * inverse)
        # Codes beyond the range are clipped at both ends alike.
        beyond = np.maximum(highest - lowest - self._largest, 0)
        lowest = np.clip(lowest + np.floor(beyond / 2), -self._largest, 0)
        self._take(scales, inverse, lowest, clips=bool(beyond.any()))

    def _take(self, scales: Values, inverse: Values, lowest: Values, *, clips: bool) -> None:
        codes, scaled = self._codes, self._scaled
        np.multiply(self._values, inverse[:, None], out=scaled)
        np.rint(scaled, out=codes)
        if clips:
            np.maximum(codes, lowest[:, None], out=codes)
            np.minimum(codes, (lowest + self._largest)[:, None], out=codes)
        codes -= scaled
        codes *= codes
        if self._importance is not None:
            codes *= self._importance[..., None]
        # Column by column: numpy's own sums choose their order by the shape.
        error = codes[:, 0].copy()
        for column in range(1, codes.shape[1]):
            error += codes[:, column]
        error *= scales * scales
        better = error < self._error
        for kept, tried in ((self._error, error), (self._scales, scales), (self._lowest, lowest)):
            np.copyto(kept, tried, where=better)


def _representable(scales: Values) -> Values:
    """Scales rounded to float16, as float32; no scale is 0.

    Raises:
        ValueError: a scale is not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise ValueError(compiled.NO_SCALES)
    rounded[rounded == 0] = _SMALLEST_FLOAT16
    return rounded
