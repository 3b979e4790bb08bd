"""Streaming log-mel, equal to transformers' `WhisperFeatureExtractor` as the Qwen2.5-Omni processor calls it.

Frame k is centred on sample k * hop. At the true start the signal is mirrored, as in `torch.stft`; after the clip's end
comes silence, because the processor pads every clip with zeros up to the extractor's maximum length before the
transform. A clip of n samples counts ceil(n / hop) frames (measured on the extractor's attention mask). Up to two
frames beyond those still cover the clip's last samples: they are no input of the encoder, but they do take part in
the maximum that the clip is normalised by. The extractor cuts a clip at its maximum length (300 s as published); this
front end takes all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from omni_edge.bundle.manifest import AudioSection

# Whisper's dynamic range: power below 1e-10, or 8 decades below the clip's loudest value, is silence.
_POWER_FLOOR = 1e-10
_RANGE_DECADES = 8.0
# The Slaney scale (Malcolm Slaney's Auditory Toolbox): linear up to 1 kHz, logarithmic above.
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_LOG_STEP = np.log(6.4) / 27.0
# Frames per transform: bounds the memory that a long clip takes.
_GROUP_FRAMES = 1024


@dataclass
class LogMelState:
    """The state of one sound.

    Attributes:
        pending: samples that later frames still need, the mirrored start included, float32 [n].
        received: samples so far.
        frames: frames yielded so far.
        peak: largest log10 power so far; after the end, of the whole clip as the reference takes it.
    """

    pending: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    received: int = 0
    frames: int = 0
    peak: float = -np.inf

    def reset(self) -> None:
        """Back to the start of a sound."""
        self.pending = np.zeros(0, np.float32)
        self.received = self.frames = 0
        self.peak = -np.inf

    @property
    def nbytes(self) -> int:
        """Bytes of samples held."""
        return self.pending.nbytes


class LogMel:
    """Window and filter bank of one manifest; immutable."""

    def __init__(self, section: AudioSection) -> None:
        self._hop = section.hop_length
        self._n_fft = section.n_fft
        self._window = np.hanning(section.n_fft + 1)[:-1]
        self._filters = slaney_filters(section.sample_rate, section.n_fft, section.n_mels)

    def step(self, samples: NDArray[np.float32], state: LogMelState, end: bool = False) -> NDArray[np.float32] | None:
        """Takes the next samples and yields the frames whose samples are all there.

        Args:
            samples: float32 [n] at the manifest's rate; may be empty.
            state: the sound.
            end: the sound is complete: the remaining frames follow, as if silence came after it.

        Returns:
            log10 of the power, float32 [n_mels, frames], not yet normalised; None: no frame is complete.
        """
        half = self._n_fft // 2
        mirrored = state.received > half
        state.received += samples.size
        signal = np.concatenate([state.pending, samples])
        if end:
            # Enough silence to complete every frame that covers a sample of the clip.
            signal = np.concatenate([signal, np.zeros(self._n_fft + self._hop, np.float32)])
        if not mirrored:
            if signal.size <= half:
                state.pending = signal
                return None
            signal = np.concatenate([signal[half:0:-1], signal])
        state.pending = signal
        frames = self._transform(state)
        state.peak = max(state.peak, float(frames.max(initial=-np.inf)))
        if end:
            frames = frames[:, : -(-state.received // self._hop) - state.frames]
        state.frames += frames.shape[1]
        return frames if frames.size else None

    def _transform(self, state: LogMelState) -> NDArray[np.float32]:
        """log10 power of all complete frames; drops the samples that no later frame reads."""
        count = max(0, (state.pending.size - self._n_fft) // self._hop + 1)
        output = np.empty((self._filters.shape[1], count), np.float32)
        if count:
            windows = sliding_window_view(state.pending, self._n_fft)[:: self._hop]
            for start in range(0, count, _GROUP_FRAMES):
                group = windows[start : min(start + _GROUP_FRAMES, count)] * self._window
                spectrum = np.fft.rfft(group, axis=1)
                power = (spectrum.real**2 + spectrum.imag**2) @ self._filters
                output[:, start : start + len(group)] = np.log10(np.maximum(power, _POWER_FLOOR)).T
            state.pending = state.pending[count * self._hop :].copy()
        return output


def normalize(log_power: NDArray[np.float32], clip_max: float) -> NDArray[np.float32]:
    """Whisper's scaling: `(max(x, clip_max - 8) + 4) / 4`, float32 of the same shape."""
    return (np.maximum(log_power, np.float32(clip_max - _RANGE_DECADES)) + np.float32(4.0)) / np.float32(4.0)


def slaney_filters(sample_rate: int, n_fft: int, n_mels: int) -> NDArray[np.float64]:
    """Triangular mel filters of unit area on the Slaney scale, from 0 Hz to Nyquist: float64 [n_fft // 2 + 1, n_mels].

    Source: transformers' `mel_filter_bank` with norm and scale "slaney".
    """
    nyquist = sample_rate / 2.0
    edges = _mel_to_hz(np.linspace(0.0, hz_to_mel(nyquist), n_mels + 2))
    bins = np.linspace(0.0, nyquist, n_fft // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles: NDArray[np.float64] = np.maximum(np.minimum(rising, falling), 0.0)
    return triangles * (2.0 / (edges[2:] - edges[:-2]))


def hz_to_mel(hz: float) -> float:
    """Hertz on the Slaney scale, in mel."""
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_HZ_PER_MEL
    return float(_SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL + np.log(hz / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP)


def _mel_to_hz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    break_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    above = _SLANEY_BREAK_HZ * np.exp(_SLANEY_LOG_STEP * (mels - break_mel))
    return np.where(mels < break_mel, mels * _SLANEY_HZ_PER_MEL, above)
