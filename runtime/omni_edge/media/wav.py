"""PCM WAV files, read and written by the standard library alone: the one sound format that needs no extra package."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import MediaError, UsageError
from omni_edge.media.source import Source, open_source

_HEADER_BYTES = 44
_SAMPLE_BYTES = 2
_INT16_MAX = 32767
_LARGEST_SIZE = 0xFFFFFFFF
# The smallest of the placeholders in use: 2 GiB less a page.
_PLACEHOLDERS = 0x7FFFF000
_LONG_PLACEHOLDERS = 1 << 62
_EXTENSIBLE, _EXTENSIBLE_BYTES = 0xFFFE, 40
# By format tag and bytes of a sample.
_CODINGS = {(1, 1): "int", (1, 2): "int", (1, 3): "int", (1, 4): "int", (3, 4): "float", (3, 8): "float"}
_BLOCK_FRAMES = 1 << 16


@dataclass(frozen=True)
class WavLayout:
    """What a WAV header declares.

    Attributes:
        coding: "int" or "float".
        channels: at least 1.
        rate: samples per second, as declared.
        width: bytes of one sample.
        start: offset of the samples in bytes.
        size: bytes of samples in the file.
        declared: bytes of samples by the header, or None where it holds a placeholder.
    """

    coding: str
    channels: int
    rate: int
    width: int
    start: int
    size: int
    declared: int | None


def read_layout(file: IO[bytes]) -> WavLayout | None:
    """The header of a WAV file (RIFF, RF64 or BW64), or None where it is none or holds another coding than PCM.

    A program that writes into a pipe cannot go back to the sizes in the header. It leaves 0 or a value near 2 or 4 GiB
    there; such a size counts as unknown where the file is smaller, and the samples reach to the end.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] not in (b"RIFF", b"RF64", b"BW64") or head[8:] != b"WAVE":
        return None
    coding: bytes | None = None
    long_size: int | None = None
    while len(chunk := file.read(8)) == 8:
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        start = file.tell()
        if name == b"data":
            return _layout(coding, start, file.seek(0, os.SEEK_END) - start, size, long_size)
        if name == b"fmt ":
            coding = file.read(min(size, _EXTENSIBLE_BYTES))
        elif name == b"ds64":
            long_size = int.from_bytes(file.read(16)[8:], "little")
        file.seek(start + size + size % 2)
    return None


def _layout(coding: bytes | None, start: int, rest: int, size: int, long_size: int | None) -> WavLayout | None:
    if coding is None or len(coding) < 16:
        return None
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", coding)
    if kind == _EXTENSIBLE and len(coding) >= _EXTENSIBLE_BYTES:
        kind = int.from_bytes(coding[24:26], "little")
    width = bits // 8
    if (kind, width) not in _CODINGS or bits % 8 or not channels or not rate:
        return None
    declared: int | None = size
    if size == _LARGEST_SIZE and long_size is not None:
        declared = long_size if 0 < long_size < _LONG_PLACEHOLDERS else None
    elif not size or (size >= _PLACEHOLDERS and size > rest):
        declared = None
    present = rest if declared is None else min(rest, declared)
    return WavLayout(_CODINGS[kind, width], channels, rate, width, start, present, declared)


def check_complete(source: Source, part: float) -> None:
    """Refuses a WAV file that holds less than `part` of what its header declares; FFmpeg would play it without a word.

    Raises:
        MediaError: the file is cut off.
    """
    layout = read_layout(source.file)
    source.file.seek(0)
    if layout and layout.declared and layout.size < part * layout.declared:
        frame = layout.rate * layout.channels * layout.width
        raise MediaError(
            f"{source.name} is cut off: it declares {layout.declared / frame:.1f} s and holds "
            f"{layout.size / frame:.1f} s. Copy it again."
        )


def read_wave(file: Path | IO[bytes], longest: float, name: str = "") -> tuple[NDArray[np.float32], int]:
    """Mono samples, float32 [n] in [-1, 1], and the rate of a WAV file of 8 to 32-bit PCM or 32 to 64-bit float.

    Args:
        file: a path, or an open file.
        longest: seconds.
        name: of an open file, for messages.

    Raises:
        MediaError: no such WAV, no samples, or more than `longest` seconds of them.
    """
    if isinstance(file, Path):
        with open_source(file) as source:
            return read_wave(source.file, longest, source.name)
    layout = read_layout(file)
    if layout is None:
        raise MediaError(
            f"{name} is no PCM WAV file; other formats need PyAV. Install it: pip install 'omni-edge[media]'"
        )
    frame = layout.channels * layout.width
    count = layout.size // frame
    if count > longest * layout.rate:
        raise MediaError(f"{name} holds more than {longest:.0f} s of sound. Cut out the part that matters.")
    if not count:
        raise MediaError(f"{name} has a sound track without a single sample. Record it again.")
    file.seek(layout.start)
    parts = []
    for first in range(0, count, _BLOCK_FRAMES):
        raw = file.read(min(_BLOCK_FRAMES, count - first) * frame)
        parts.append(_to_mono(np.frombuffer(raw[: len(raw) // frame * frame], np.uint8), layout))
    return np.concatenate(parts), layout.rate


def _to_mono(raw: NDArray[np.uint8], layout: WavLayout) -> NDArray[np.float32]:
    """Bytes of whole frames as float32 [n], the mean of the channels."""
    width = layout.width
    if layout.coding == "float":
        # A float64 beyond float32 becomes infinite, which `validate_pcm` refuses by name.
        with np.errstate(over="ignore", invalid="ignore"):
            return _mean(raw.view(f"<f{width}").astype(np.float32), layout.channels)
    if width == 1:
        values = raw.astype(np.float32) / 128.0 - 1.0
    else:
        # Widened to the top of 32 bits, whatever the width: 16, 24 or 32.
        wide = np.zeros((raw.size // width, 4), np.uint8)
        wide[:, 4 - width :] = raw.reshape(-1, width)
        values = wide.view("<i4").reshape(-1).astype(np.float32) / np.float32(1 << 31)
    return _mean(values, layout.channels)


def _mean(values: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    mono: NDArray[np.float32] = values.reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return mono


def pcm16(samples: NDArray[np.float32]) -> bytes:
    """float32 [n] in [-1, 1] as little-endian 16-bit PCM."""
    return np.rint(np.clip(samples, -1.0, 1.0) * _INT16_MAX).astype("<i2").tobytes()


class WavWriter:
    """Writes mono 16-bit PCM.

    The header of a regular file is right after every `write`, also when the disk fills in the middle of one. A pipe or
    a device cannot be rewritten: its header says that the length is unknown.

    Args:
        target: a path, replaced if it exists, or an open binary file without a buffer.
        rate: samples per second.

    Raises:
        UsageError: the file cannot be created.
    """

    def __init__(self, target: Path | RawIOBase, rate: int) -> None:
        self.rate = rate
        self.samples = 0
        self._bytes = 0
        if isinstance(target, Path):
            try:
                # Unbuffered: a failing write is noticed here, and the header never counts samples still in memory.
                self._file: RawIOBase = target.open("wb", buffering=0)
            except OSError as error:
                raise UsageError(f"{target} cannot be written ({error.strerror}). Choose another file.") from None
            self._rewritable = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        else:
            self._file, self._rewritable = target, False
        self._append(self._header())

    def write(self, samples: NDArray[np.float32]) -> None:
        """Appends float32 [n] in [-1, 1].

        Raises:
            OSError: the disk is full; what fitted is kept.
        """
        try:
            self._append(pcm16(samples))
        finally:
            self.samples = (self._bytes - _HEADER_BYTES) // _SAMPLE_BYTES
            if self._rewritable:
                self._file.seek(0)
                self._file.write(self._header())
                self._file.seek(0, os.SEEK_END)

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
            written = self._file.write(rest) or 0
            self._bytes += written
            rest = rest[written:]

    def _header(self) -> bytes:
        size = min(self.samples * _SAMPLE_BYTES, _LARGEST_SIZE) if self._rewritable else _LARGEST_SIZE
        form = struct.pack("<4sI4s", b"RIFF", min(_HEADER_BYTES - 8 + size, _LARGEST_SIZE), b"WAVE")
        coding = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, self.rate, self.rate * _SAMPLE_BYTES, _SAMPLE_BYTES, 16)
        return form + coding + struct.pack("<4sI", b"data", size)
