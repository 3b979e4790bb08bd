"""Samples to bytes and back: the formats in which clients send and take sound."""

from __future__ import annotations

import struct
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.media.encode import ENCODINGS, SoundEncoder

_INT16_MAX = 32767
_UNKNOWN_LENGTH = 0xFFFFFFFF
TELEPHONE_RATE = 8_000
CONTENT_TYPES = {
    "wav": "audio/wav",
    "pcm": "audio/pcm",
    "pcm16": "audio/pcm",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
}


class SoundStream(Protocol):
    """A sound on its way to a client."""

    def push(self, samples: NDArray[np.float32]) -> bytes:
        """The bytes that are complete after the next samples, float32 [n] in [-1, 1]."""

    def close(self) -> bytes:
        """The last bytes."""


def sound_stream(name: str, rate: int) -> SoundStream:
    """A stream of the format `name`, one of `CONTENT_TYPES`, at `rate` samples per second.

    Raises:
        UsageError: the format needs PyAV, which is not installed.
    """
    if name in ENCODINGS:
        return SoundEncoder(name, rate)
    return PcmStream(wav_header(rate) if name == "wav" else b"")


class PcmStream:
    """16-bit PCM, little-endian, behind a header."""

    def __init__(self, header: bytes = b"") -> None:
        self._header = header

    def push(self, samples: NDArray[np.float32]) -> bytes:
        """The bytes of the next samples."""
        header, self._header = self._header, b""
        return header + to_pcm16(samples)

    def close(self) -> bytes:
        """The header, where there was no sound."""
        header, self._header = self._header, b""
        return header


def to_pcm16(samples: NDArray[np.float32]) -> bytes:
    """float32 [n] in [-1, 1] as mono 16-bit PCM, little-endian."""
    return np.rint(np.clip(samples, -1.0, 1.0) * _INT16_MAX).astype("<i2").tobytes()


def from_pcm16(data: bytes) -> NDArray[np.int16]:
    """16-bit PCM, little-endian, as int16 [n]; an odd byte at the end is dropped."""
    return np.frombuffer(data, "<i2", len(data) // 2).astype(np.int16, copy=False)


def wav_header(rate: int, samples: int | None = None) -> bytes:
    """The 44 bytes before mono 16-bit PCM; with an unknown length, as programs write it into a pipe, for None."""
    size = _UNKNOWN_LENGTH if samples is None else 2 * samples
    whole = _UNKNOWN_LENGTH if samples is None else 36 + size
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size
    )


class OutputRate:
    """Converts a stream of samples from one rate to another.

    Args:
        source, target: samples per second.
    """

    def __init__(self, source: int, target: int) -> None:
        self._resampler, self._state = resampler(source, target), ResampleState()

    def push(self, samples: NDArray[np.float32], end: bool = False) -> NDArray[np.float32]:
        """The samples that are complete, float32 [n]."""
        converted = self._resampler.step(samples, self._state, end)
        return converted if converted is not None else np.zeros(0, np.float32)


# -- G.711, from its definition in ITU-T Rec. G.711 ------------------------------------------------------------------

_ULAW_BIAS = 0x84


def _ulaw_values() -> NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + _ULAW_BIAS) << ((code & 0x70) >> 4)) - _ULAW_BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_values() -> NDArray[np.int16]:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


# int16 [256]: the sample of each code.
G711 = {"pcmu": _ulaw_values(), "pcma": _alaw_values()}


def from_g711(data: bytes, law: str) -> NDArray[np.int16]:
    """Codes of a telephone as int16 [n]; `law` is pcmu or pcma."""
    values: NDArray[np.int16] = G711[law][np.frombuffer(data, np.uint8)]
    return values


def to_g711(samples: NDArray[np.float32], law: str) -> bytes:
    """float32 [n] in [-1, 1] as the nearest code of each sample."""
    values = G711[law].astype(np.int32)
    order = np.argsort(values, kind="stable")
    middles = (values[order][1:] + values[order][:-1]) / 2
    nearest = np.searchsorted(middles, np.clip(samples, -1.0, 1.0) * _INT16_MAX)
    return order[nearest].astype(np.uint8).tobytes()
