"""The formats of weights that our compiled operators take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from omni_quant import BlockwiseWeight, quantize_blockwise
from omni_quant.precision import Activations, Kind, Scales, WeightFormat

FORMATS = {
    "int4": WeightFormat(Kind.INT4, Scales.GROUP, Activations.INT8_PER_GROUP, 0, True, True),
    "int4 without zero points": WeightFormat(Kind.INT4, Scales.GROUP, Activations.INT8_PER_GROUP, 0, True, False),
    "int8": WeightFormat(Kind.INT8, Scales.GROUP, Activations.INT8_PER_GROUP, 0, True, False),
    # Bundles of older versions.
    "int4 float32": WeightFormat(Kind.INT4, Scales.GROUP, Activations.INT8_PER_GROUP),
    "int8 float32": WeightFormat(Kind.INT8, Scales.GROUP, Activations.INT8_PER_GROUP),
}


def in_groups(name: str, size: int) -> WeightFormat:
    """A format of `FORMATS` with groups of `size`."""
    return replace(FORMATS[name], group_size=size)


def quantize(weight: NDArray[np.float32], weights: WeightFormat) -> BlockwiseWeight:
    """`weight` [rows, columns] in the format `weights`."""
    return quantize_blockwise(
        weight,
        bits=weights.kind.bits,
        block_size=weights.group_size,
        float16_scales=weights.float16_scales,
        zero_points=weights.zero_points,
    )


def rounded(x: NDArray[np.float32], block: int) -> NDArray[np.float64]:
    """Activations rounded to INT8, block by block; in float32, so that values half way between codes round as in C."""
    padded = np.pad(x, [(0, 0), (0, -x.shape[1] % block)]).reshape(len(x), -1, block)
    bound = np.abs(padded).max(2, keepdims=True)
    codes = np.rint(padded * (np.float32(127) / np.where(bound, bound, 1)))
    kept = codes.astype(np.float64) * (bound / np.float32(127))
    return kept.reshape(len(x), -1)[:, : x.shape[1]]
