"""The noise at which sampling of the DiT starts: N(0, 1), addressed by block.

A window computes its look-ahead blocks again in the next chunk, from the same noise. Addressed noise makes the waveform
independent of the groups in which codec tokens arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

NoiseSource = Callable[[int], NDArray[np.float32]]
"""Index of a block in the utterance -> float32 [block_frames, mel_dim]."""


def seeded_noise(seed: int | tuple[int, ...], block_frames: int, mel_dim: int) -> NoiseSource:
    """The noise of a seed, from a Philox generator whose counter starts at the block's index.

    Args:
        seed: one or more non-negative integers.
        block_frames: mel frames of a block.
        mel_dim: mel channels.
    """
    key = np.random.SeedSequence(seed).generate_state(2, np.uint64).astype(np.uint64, copy=False)
    # Not a closure, so that the state of an utterance can be pickled.
    return partial(_block_noise, key, (block_frames, mel_dim))


def _block_noise(key: NDArray[np.uint64], shape: tuple[int, int], index: int) -> NDArray[np.float32]:
    generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index]))
    return generator.standard_normal(shape, np.float32)
