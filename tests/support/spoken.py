"""Spoken clips, and detectors of speech that need no model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.live.voice_detector import VOICE_RATE, VoiceState
from omni_edge.media.wav import read_wave

DATA = Path(__file__).parents[1] / "data"


class LoudnessDetector:
    """Speech is what is louder than 1 % of full scale."""

    def step(self, frame: NDArray[np.float32], state: VoiceState) -> float:
        return float(np.sqrt(np.mean(frame**2)) > 0.01)


def question() -> NDArray[np.float32]:
    """1.61 s of speech, float32 [n] at 16 kHz."""
    samples, rate = read_wave(DATA / "question.wav", 10)
    assert rate == VOICE_RATE
    return samples


def silence(seconds: float) -> NDArray[np.float32]:
    """float32 [n] at 16 kHz."""
    return np.zeros(round(seconds * VOICE_RATE), np.float32)


def noise(seconds: float, decibels: float, seed: int = 0) -> NDArray[np.float32]:
    """White noise of a level below full scale, float32 [n] at 16 kHz."""
    amplitude = np.float32(10 ** (decibels / 20))
    values = np.random.default_rng(seed).standard_normal(round(seconds * VOICE_RATE))
    return values.astype(np.float32) * amplitude
