"""Streaming sample-rate conversion: a windowed-sinc polyphase filter whose products are small dense matrices.

For a ratio L/M in lowest terms, output j lies at input time j * M / L. A tile of consecutive outputs reads one range of
the input through one matrix, and the matrices repeat every `period` tiles, so that all tiles of one phase are one
product. (Julius O. Smith, "Digital Audio Resampling"; Kaiser window.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from omni_edge.audio.samples import validate_rate

# Zero crossings of the sinc on each side, counted at the lower of the two rates: 64 at 16 kHz look 4 ms ahead.
_ZERO_CROSSINGS = 64
# Cutoff as a part of the lower rate's Nyquist frequency, and the Kaiser window's shape: together they leave everything
# below 92 % of Nyquist alone and have reached -80 dB at Nyquist itself.
_CUTOFF = 0.96
_KAISER_BETA = 7.9
_TILE_OUTPUTS = 16
# A long clip is converted piece by piece, so that the matrices' operands stay small.
_PIECE_SAMPLES = 1 << 18


@dataclass
class ResampleState:
    """The state of one stream.

    Attributes:
        pending: input samples that later outputs still need, float32 [n].
        received: input samples so far.
        emitted: output samples so far.
        origin: index in the stream of the first pending sample (negative: the silence before the start).
    """

    pending: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    received: int = 0
    emitted: int = 0
    origin: int = 0

    def reset(self) -> None:
        """Back to the start of a stream."""
        self.pending = np.zeros(0, np.float32)
        self.received = self.emitted = self.origin = 0

    @property
    def nbytes(self) -> int:
        """Bytes of samples held."""
        return self.pending.nbytes


class Resampler:
    """Converts from `source` to `target` samples per second; immutable, shared by any number of streams.

    n samples become ceil(n * target / source). The output does not depend on how the input is split.

    Raises:
        MediaError: a rate is not one of a sound.
    """

    def __init__(self, source: int, target: int) -> None:
        self.source = validate_rate(source)
        self.target = validate_rate(target)
        divisor = math.gcd(self.source, self.target)
        self._up, self._down = self.target // divisor, self.source // divisor
        if self._up == self._down:
            return
        bandwidth = min(1.0, self.target / self.source)
        self._reach = math.ceil(_ZERO_CROSSINGS / bandwidth)
        # Tiles after which an output falls on an input sample again at a tile's start.
        self._period = self._up // math.gcd(self._up, _TILE_OUTPUTS)
        self._stride = self._period * _TILE_OUTPUTS * self._down // self._up
        self._width = 2 * self._reach + 1 + (_TILE_OUTPUTS - 1) * self._down // self._up + 1
        self._kernels = self._design(bandwidth)

    def _design(self, bandwidth: float) -> NDArray[np.float32]:
        """The matrices of one period, float32 [period, width, tile]; each output's weights sum to one."""
        outputs = np.arange(self._period * _TILE_OUTPUTS, dtype=np.int64).reshape(self._period, 1, _TILE_OUTPUTS)
        starts = outputs[:, :, :1] * self._down // self._up - self._reach
        kernels = np.empty((self._period, self._width, _TILE_OUTPUTS), np.float32)
        for tile in range(self._period):
            inputs = starts[tile] + np.arange(self._width)[:, None]
            distance = (outputs[tile] * self._down - inputs * self._up) / self._up
            window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(1.0 - (distance / self._reach) ** 2, 0.0)))
            window[np.abs(distance) > self._reach] = 0.0
            weights = np.sinc(_CUTOFF * bandwidth * distance) * window
            kernels[tile] = weights / weights.sum(axis=0)
        return kernels

    def step(self, samples: NDArray[np.float32], state: ResampleState, end: bool = False) -> NDArray[np.float32] | None:
        """Takes the next input samples and returns the output samples that are complete.

        Args:
            samples: float32 [n] at `source`; may be empty.
            state: the stream.
            end: the stream is complete: silence follows, and all outputs are returned.

        Returns:
            float32 [m] at `target`, or None: no output sample is complete.
        """
        if self._up == self._down:
            return samples if samples.size else None
        if not state.received and not state.pending.size:
            state.pending, state.origin = np.zeros(self._reach, np.float32), -self._reach
        pieces: list[NDArray[np.float32]] = []
        for start in range(0, samples.size, _PIECE_SAMPLES):
            piece = samples[start : start + _PIECE_SAMPLES]
            state.received += piece.size
            state.pending = np.concatenate([state.pending, piece])
            pieces.append(self._convert(state))
        if end:
            total = -(-state.received * self._up // self._down)
            state.pending = np.concatenate([state.pending, np.zeros(2 * self._width, np.float32)])
            emitted = state.emitted
            pieces.append(self._convert(state)[: total - emitted])
        output = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        return output if output.size else None

    def _convert(self, state: ResampleState) -> NDArray[np.float32]:
        """The tiles whose whole input range is pending; drops the samples that no later tile reads."""
        first = state.emitted // _TILE_OUTPUTS
        tiles = max(0, self._tiles_up_to(state.origin + state.pending.size) - first)
        output = np.empty((tiles, _TILE_OUTPUTS), np.float32)
        if tiles:
            windows = sliding_window_view(state.pending, self._width)
            for offset in range(min(self._period, tiles)):
                start = self._start(first + offset) - state.origin
                rows = -(-(tiles - offset) // self._period)
                output[offset :: self._period] = (
                    windows[start :: self._stride][:rows] @ self._kernels[(first + offset) % self._period]
                )
            state.emitted += output.size
            kept = self._start(first + tiles) - state.origin
            state.pending = state.pending[kept:].copy()
            state.origin += kept
        return output.reshape(-1)

    def _start(self, tile: int) -> int:
        """Index in the stream of the first sample that `tile` reads."""
        return tile * _TILE_OUTPUTS * self._down // self._up - self._reach

    def _tiles_up_to(self, sample: int) -> int:
        """Number of tiles that read nothing at or after index `sample`."""
        # start(tile) <= room, with start = floor(tile * _TILE_OUTPUTS * down / up) - reach
        room = sample - self._width + self._reach
        return max(0, ((room + 1) * self._up - 1) // (_TILE_OUTPUTS * self._down) + 1)


@lru_cache(maxsize=8)
def resampler(source: int, target: int) -> Resampler:
    """The converter of a pair of rates, made once: every stream from one kind of microphone shares its matrices."""
    return Resampler(source, target)
