"""A WAV file that can be opened and played while it is still growing."""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import UsageError

_HEADER_BYTES = 44
_SAMPLE_BYTES = 2
_INT16_MAX = 32767


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
