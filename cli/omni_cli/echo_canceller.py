"""Echo cancellation: what the loudspeaker plays is subtracted from what the microphone records (WebRTC's AEC3).

The package livekit (Apache-2.0) brings it as its audio processing module, which needs no server.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.errors import DeviceError, UsageError
from omni_edge.live.voice_detector import VOICE_RATE
from omni_edge.media.wav import pcm16

# The module takes frames of 10 ms.
_FRAME = VOICE_RATE // 100
_INT16_SCALE = np.float32(1 / 32768)
# Blocks of the loudspeaker that may wait for the microphone: some seconds.
_LONGEST_QUEUE = 200


def installed() -> bool:
    """Whether there is an echo canceller."""
    return importlib.util.find_spec("livekit") is not None


class EchoCanceller:
    """One microphone and one loudspeaker.

    Raises:
        UsageError: livekit is not installed.
        DeviceError: it does not run on this system.
    """

    def __init__(self) -> None:
        try:
            self._rtc: Any = importlib.import_module("livekit.rtc")
        except ImportError:
            raise UsageError(
                "The echo canceller is not installed: pip install 'omni-edge[echo]'. --echo half works without it."
            ) from None
        except OSError as error:
            raise DeviceError(f"The echo canceller does not run here ({error}). Use --echo half.") from None
        self._module = self._rtc.AudioProcessingModule(echo_cancellation=True)
        # Written by the loudspeaker's thread, read by the microphone's.
        self._played: deque[tuple[NDArray[np.float32], int]] = deque(maxlen=_LONGEST_QUEUE)
        self._far, self._near = _Frames(), _Frames()

    def play(self, samples: NDArray[np.float32], rate: int) -> None:
        """Takes what the loudspeaker plays next, silence included: float32 [n]. It returns at once."""
        self._played.append((samples, rate))

    def clean(self, samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Takes what the microphone recorded next, float32 [n]; returns it without the echo.

        Returns:
            float32 [m] at 16 kHz, in whole frames of 10 ms; the rest follows with the next samples.
        """
        while self._played:
            for frame in self._far.step(*self._played.popleft()):
                self._module.process_reverse_stream(self._frame(frame))
        cleaned = []
        for frame in self._near.step(samples, rate):
            near = self._frame(frame)
            # AEC3 finds the delay itself, up to half a second, but asks for a value.
            self._module.set_stream_delay_ms(0)
            self._module.process_stream(near)
            cleaned.append(np.frombuffer(bytes(near.data.cast("B")), "<i2"))
        if not cleaned:
            return np.zeros(0, np.float32)
        joined: NDArray[np.float32] = np.concatenate(cleaned).astype(np.float32)
        return joined * _INT16_SCALE

    def _frame(self, samples: NDArray[np.float32]) -> Any:
        return self._rtc.AudioFrame(bytearray(pcm16(samples)), VOICE_RATE, 1, _FRAME)


class _Frames:
    """Cuts a sound into frames of 10 ms at 16 kHz."""

    def __init__(self) -> None:
        self._rate, self._state = VOICE_RATE, ResampleState()
        self._rest = np.zeros(0, np.float32)

    def step(self, samples: NDArray[np.float32], rate: int) -> list[NDArray[np.float32]]:
        if rate != self._rate:
            self._rate, self._state = rate, ResampleState()
        converted = resampler(rate, VOICE_RATE).step(samples, self._state)
        if converted is not None:
            self._rest = np.concatenate([self._rest, converted])
        count = self._rest.size // _FRAME
        frames = [self._rest[start * _FRAME : (start + 1) * _FRAME] for start in range(count)]
        self._rest = self._rest[count * _FRAME :]
        return frames
