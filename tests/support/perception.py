"""What the perception tests share: the manifest sections of the published checkpoints, and synthetic sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import AudioSection, VisionSection

AUDIO = AudioSection(sample_rate=16000, n_fft=400, hop_length=160, n_mels=128, block_frames=200)

VISION = VisionSection(
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    window_size=112,
    head_dim=80,
    rope_theta=10000.0,
    min_pixels=56 * 56,
    max_pixels=16384 * 28 * 28,
    video_min_pixels=128 * 28 * 28,
    video_max_pixels=768 * 28 * 28,
    video_total_pixels=int(128000 * 28 * 28 * 0.9),
    video_fps=2.0,
    video_min_frames=4,
    video_max_frames=768,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)


def tone(frequency: float, rate: int, seconds: float, amplitude: float = 0.5) -> NDArray[np.float32]:
    """A sine: float32 [rate * seconds]."""
    time = np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def babble(samples: int, seed: int) -> NDArray[np.float32]:
    """Noise with the slow ups and downs of speech, about 60 dB from the quietest to the loudest: float32 [samples]."""
    random = np.random.default_rng(seed)
    knots = random.uniform(-3.5, -0.5, max(2, samples // 2000 + 2))
    level = np.interp(np.linspace(0, len(knots) - 1, samples), np.arange(len(knots)), knots)
    return (random.standard_normal(samples) * 10**level).clip(-1, 1).astype(np.float32)


def splits(total: int, sizes: list[int]) -> list[slice]:
    """Consecutive slices that cover `total`, of `sizes` taken in turn (0 gives an empty slice)."""
    cuts, start, turn = [], 0, 0
    while start < total:
        size = sizes[turn % len(sizes)]
        cuts.append(slice(start, min(start + size, total)))
        start += size
        turn += 1
    return cuts
