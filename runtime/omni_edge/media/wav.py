"""PCM WAV files, read and written by the standard library alone: the one sound format that needs no extra package."""

from __future__ import annotations

import struct
import wave
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import MediaError, UsageError

_HEADER_BYTES = 44
_SAMPLE_BYTES = 2
_INT16_MAX = 32767


def check_complete(file: Path, part: float) -> None:
    """Refuses a WAV file that holds less than `part` of what its header declares; FFmpeg would play it without a word.

    Raises:
        MediaError: the file is cut off.
    """
    with file.open("rb") as opened:
        head = opened.read(12)
    declared = int.from_bytes(head[4:8], "little")
    # 0 and the largest value stand for "written to a pipe".
    if head[:4] == b"RIFF" and head[8:] == b"WAVE" and 0 < declared < 0xFFFFFFFF:
        size = file.stat().st_size
        if size < part * declared:
            raise MediaError(f"{file} is cut off: it declares {declared + 8} bytes and holds {size}. Copy it again.")


def read_wave(file: Path, longest: float) -> tuple[NDArray[np.float32], int]:
    """Mono samples, float32 [n] in [-1, 1], and the rate of a PCM WAV file of 8, 16, 24 or 32 bits.

    Raises:
        MediaError: no PCM WAV, no samples, or more than `longest` seconds of them.
    """
    try:
        with wave.open(str(file), "rb") as sound:
            rate, channels, width = sound.getframerate(), sound.getnchannels(), sound.getsampwidth()
            # One frame more than allowed, to tell a sound of exactly the longest duration from a longer one.
            data = sound.readframes(min(sound.getnframes(), int(longest * rate) + 1))
    except (wave.Error, EOFError):
        raise MediaError(
            f"{file} is no PCM WAV file; other formats need PyAV. Install it: pip install 'omni-edge[media]'"
        ) from None
    if len(data) > longest * rate * channels * width:
        raise MediaError(f"{file} holds more than {longest:.0f} s of sound. Cut out the part that matters.")
    if not data:
        raise MediaError(f"{file} has a sound track without a single sample.")
    raw = np.frombuffer(data[: len(data) // (channels * width) * channels * width], np.uint8).reshape(-1, width)
    if width == 1:
        values = raw.astype(np.float32).reshape(-1) / 128.0 - 1.0
    else:
        # Widened to the top of 32 bits, whatever the width: 16, 24 or 32.
        wide = np.zeros((len(raw), 4), np.uint8)
        wide[:, 4 - width :] = raw
        values = wide.view("<i4").reshape(-1).astype(np.float32) / np.float32(1 << 31)
    return values.reshape(-1, channels).mean(axis=1, dtype=np.float32), rate


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """float32 [n] in [-1, 1] as little-endian 16-bit PCM."""
    return np.rint(np.clip(samples, -1.0, 1.0) * _INT16_MAX).astype("<i2").tobytes()


class WavWriter:
    """Mono 16-bit PCM; the header is right after every `write`, also when the disk fills in the middle of one.

    Args:
        path: replaced if it exists.
        rate: samples per second.

    Raises:
        UsageError: the file cannot be created.
    """

    def __init__(self, path: Path, rate: int) -> None:
        self.rate = rate
        self.samples = 0
        try:
            # Unbuffered: what cannot be written is known here, and the header never counts samples still in memory.
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}). Choose another file with -o.") from None
        self._append(self._header())

    def write(self, samples: NDArray[np.float32]) -> None:
        """Appends float32 [n] in [-1, 1].

        Raises:
            OSError: the disk is full; what fitted is kept.
        """
        try:
            self._append(pcm16(samples))
        finally:
            self.samples = (self._file.tell() - _HEADER_BYTES) // _SAMPLE_BYTES
            self._file.seek(0)
            self._file.write(self._header())
            self._file.seek(0, 2)

    def close(self) -> None:
        """Ends the file; it has been valid all along."""
        self._file.close()

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _header(self) -> bytes:
        size = self.samples * _SAMPLE_BYTES
        form = struct.pack("<4sI4s", b"RIFF", _HEADER_BYTES - 8 + size, b"WAVE")
        coding = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, self.rate, self.rate * _SAMPLE_BYTES, _SAMPLE_BYTES, 16)
        return form + coding + struct.pack("<4sI", b"data", size)
