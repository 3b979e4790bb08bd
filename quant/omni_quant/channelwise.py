"""Symmetric INT8 or INT16 with a scale per output channel, for integer matrix products and convolutions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChannelwiseWeight:
    """A quantized weight.

    Attributes:
        codes: int8 or int16 [out, ...], of the weight's shape.
        scales: float32 [out].
    """

    codes: NDArray[np.int8 | np.int16]
    scales: NDArray[np.float32]


def quantize_channelwise(weight: NDArray[np.float32], bits: int = 8) -> ChannelwiseWeight:
    """Quantizes `weight` float32 [out, ...] to 8 or 16 bits, with a scale per output channel; zero stays zero."""
    flat = weight.reshape(weight.shape[0], -1)
    scales = (np.abs(flat).max(-1) / (2 ** (bits - 1) - 1)).astype(np.float32)
    scales[scales == 0] = 1.0
    codes = np.rint(flat / scales[:, None]).astype(np.int8 if bits == 8 else np.int16)
    return ChannelwiseWeight(codes.reshape(weight.shape), scales)
