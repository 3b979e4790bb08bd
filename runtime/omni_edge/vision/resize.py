"""Bicubic resizing that gives Pillow's bytes: antialiased, a = -0.5, in Pillow's fixed-point arithmetic.

A resize is two banded products, along the rows and along the columns. Each is computed tile by tile: a few neighbouring
outputs need one short range of the input, so a tile is a small dense matrix product, which BLAS does. In float64 the
products of bytes and 22-bit weights are exact, so the result equals Pillow's.
(Source: `ImagingResample` in Pillow's libImaging/Resample.c.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Pillow's weights are integers of 32 bits: 8 for the pixel, 2 for the overshoot of the kernel, the rest for precision.
_WEIGHT_SCALE = float(1 << (32 - 8 - 2))
_BICUBIC_A = -0.5
_BICUBIC_SUPPORT = 2.0
_TILE_OUTPUTS = 32
# Values of one float64 strip: bounds the extra memory of a large picture to a few of these.
_STRIP_VALUES = 1 << 21


def resize(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """`Image.resize((width, height), BICUBIC)`.

    Args:
        pixels: uint8 [H, W, C].
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.

    Returns:
        uint8 [height, width, C], C-contiguous; the input itself when its size is the right one.
    """
    rows, columns, _ = pixels.shape
    if (rows, columns) == (height, width):
        return pixels
    planes: NDArray[np.uint8] = pixels.transpose(2, 0, 1)
    # The order shows in the last bits, since the values between the two passes are bytes. Pillow narrows first, unless
    # (since version 13) the height shrinks by far more than the width.
    if height < rows and rows - height > 2 * (columns - width):
        planes = _resize_axis(_resize_axis(planes, 1, height), 2, width)
    else:
        planes = _resize_axis(_resize_axis(planes, 2, width), 1, height)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _resize_axis(planes: NDArray[np.uint8], axis: int, size: int) -> NDArray[np.uint8]:
    """Planes uint8 [C, H, W] with `size` values along `axis`, 1 or 2."""
    if planes.shape[axis] == size:
        return planes
    shape = [size if each == axis else length for each, length in enumerate(planes.shape)]
    result = np.empty(shape, np.uint8)
    # Views with the axis last: one product serves both directions.
    lines, resized = planes.swapaxes(axis, 2), result.swapaxes(axis, 2)
    channels, count, length = lines.shape
    for tile in _tiles(length, size):
        step = max(1, _STRIP_VALUES // (channels * tile.weights.shape[0]))
        for start in range(0, count, step):
            strip = lines[:, start : start + step, tile.source].astype(np.float64)
            resized[:, start : start + step, tile.target] = _to_bytes(strip @ tile.weights)
    return result


@dataclass(frozen=True)
class _Tile:
    """Neighbouring outputs, the range of inputs they read, and the weights: float64 [inputs, outputs]."""

    target: slice
    source: slice
    weights: NDArray[np.float64]


def _tiles(size: int, target: int) -> list[_Tile]:
    """The banded matrix of one direction, cut into dense tiles."""
    scale = size / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    reach = _BICUBIC_SUPPORT * stretch
    firsts = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    ends = np.minimum((centres + reach + 0.5).astype(np.int64), size)
    tiles = []
    for start in range(0, target, _TILE_OUTPUTS):
        outputs = slice(start, min(start + _TILE_OUTPUTS, target))
        source = slice(int(firsts[start]), int(ends[outputs.stop - 1]))
        inputs = np.arange(source.start, source.stop)[:, None]
        weights = _bicubic((inputs - centres[outputs] + 0.5) / stretch)
        weights[(inputs < firsts[outputs]) | (inputs >= ends[outputs])] = 0.0
        weights /= weights.sum(axis=0)
        # Rounded half away from zero, as a C cast of x + 0.5 or x - 0.5 does.
        fixed = np.trunc(weights * _WEIGHT_SCALE + np.copysign(0.5, weights))
        tiles.append(_Tile(outputs, source, fixed / _WEIGHT_SCALE))
    return tiles


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic convolution kernel (Keys, 1981) with a = -0.5."""
    x = np.abs(x)
    near = ((_BICUBIC_A + 2.0) * x - (_BICUBIC_A + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * _BICUBIC_A
    return np.where(x < 1.0, near, np.where(x < _BICUBIC_SUPPORT, far, 0.0))


def _to_bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Rounded half up and clipped, in place."""
    values += 0.5
    return np.clip(values, 0.0, 255.0, out=values).astype(np.uint8)
