"""Quantization of a matrix from its values alone, while its graph is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.machine import usable_cores
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_quant import BlockwiseWeight, quantize_blockwise_rows
from omni_quant.precision import WeightFormat

Quantize = Callable[[LazyTensor, WeightFormat], BlockwiseWeight]


def round_blockwise(
    weight: LazyTensor, weights: WeightFormat, importance: NDArray[np.float32] | None = None
) -> BlockwiseWeight:
    """Quantizes a matrix in groups, from its values alone.

    Args:
        weight: [rows, columns].
        weights: the format, with scales per group.
        importance: of each column, float32 [columns]; see `omni_quant.quantize_blockwise_rows`.

    Raises:
        CheckpointError: a value is not finite, or too large for the format.
    """
    rows, columns = weight.shape
    try:
        return quantize_blockwise_rows(
            weight.read,
            rows,
            columns,
            bits=weights.kind.bits,
            block_size=weights.group_size,
            float16_scales=weights.float16_scales,
            zero_points=weights.zero_points,
            importance=importance,
            threads=usable_cores(),
        )
    except ValueError as error:
        raise CheckpointError(
            f"{weight.name} has {error}. Download the checkpoint again, or export it with --precision fp32."
        ) from error
