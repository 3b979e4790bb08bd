"""Quantizes one matrix by the second moments of what goes into it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from omni_edge.backend.machine import usable_cores
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.lazy_tensor import Array, LazyTensor
from omni_quant.blockwise import BlockwiseWeight
from omni_quant.gptq import Feedback, feedback, quantize_with_feedback, second_moments
from omni_quant.precision import Activations, WeightFormat

# The widest block of columns that shares one matrix of moments, which takes 4 bytes * width**2, three times over.
_WIDEST = 6144
_LEVELS = 127


def calibrated(weight: LazyTensor, weights: WeightFormat, inputs: Array) -> BlockwiseWeight:
    """Quantizes `weight` with feedback.

    Args:
        weight: [rows, columns].
        weights: the format: scales per group in float16.
        inputs: float32 [tokens, columns], as the product takes them.

    Raises:
        CheckpointError: weights or inputs are not finite.
    """
    rows, columns = weight.shape
    try:
        return quantize_with_feedback(
            weight.read,
            rows,
            columns,
            _feedbacks(inputs, weights.group_size),
            bits=weights.kind.bits,
            block_size=weights.group_size,
            zero_points=weights.zero_points,
            threads=usable_cores(),
        )
    except ValueError as error:
        raise CheckpointError(
            f"{weight.name} has {error}. Download the checkpoint again, or export it with --calibration none."
        ) from error


def _feedbacks(inputs: Array, group_size: int) -> list[Feedback]:
    """The feedback of each block of columns; blocks are of nearly equal width and hold whole groups."""
    columns = inputs.shape[1]
    groups = -(-columns // group_size)
    count = -(-groups * group_size // _WIDEST)
    bounds = [index * groups // count * group_size for index in range(count + 1)]
    found = []
    for start, stop in pairwise(bounds):
        moments = second_moments(inputs[:, start : min(stop, columns)])
        if stop > columns:
            moments = np.pad(moments, (0, stop - columns))
        found.append(feedback(moments, group_size))
    return found


def round_activations(x: Array, weights: WeightFormat) -> None:
    """Rounds `x` float32 [tokens, columns] in place, as the product with a matrix of this format does."""
    if weights.activations is not Activations.INT8_PER_GROUP:
        return
    whole = x.shape[1] // weights.group_size * weights.group_size
    grouped = x[:, :whole].reshape(len(x), -1, weights.group_size)
    x[:, :whole] = _rounded(grouped).reshape(len(x), whole)
    if whole < x.shape[1]:
        x[:, whole:] = _rounded(x[:, whole:])


def _rounded(grouped: Array) -> Array:
    """Values of INT8 codes with one scale for each group along the last axis."""
    steps = np.abs(grouped).max(axis=-1, keepdims=True) / np.float32(_LEVELS)
    steps[steps == 0] = 1
    codes: Array = np.rint(grouped / steps)
    codes *= steps
    return codes
