"""Where the DiT starts from: N(0, 1), addressed by position.

A stream recomputes look-ahead blocks from their noise, and its waveform must not depend on how codec tokens were
grouped: block b has the same noise whenever and however often it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

NoiseSource = Callable[[int], NDArray[np.float32]]
"""Block index -> float32 [block_frames, mel_dim]."""


def seeded_noise(seed: int | tuple[int, ...], block_frames: int, mel_dim: int) -> NoiseSource:
    """Noise named by `seed` (non-negative): the counter of a Philox generator starts at the block's index."""
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64)

    def block(index: int) -> NDArray[np.float32]:
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
        return generator.standard_normal((block_frames, mel_dim), np.float32)

    return block
