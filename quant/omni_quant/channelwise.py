"""Symmetric INT8 with a scale per output channel, for integer matrix products and convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChannelwiseWeight:
    """A quantized weight.

    Attributes:
        codes: int8 [out, ...], of the weight's shape.
        scales: float32 [out].
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def quantize_channelwise(weight: NDArray[np.float32]) -> ChannelwiseWeight:
    """Quantizes `weight` float32 [out, ...] with one scale per output channel; zero stays exactly zero."""
    flat = weight.reshape(weight.shape[0], -1)
    scales = (np.abs(flat).max(-1) / 127).astype(np.float32)
    scales[scales == 0] = 1.0
    codes = np.rint(flat / scales[:, None]).astype(np.int8)
    return ChannelwiseWeight(codes.reshape(weight.shape), scales)
