"""PCM WAV files by the standard library alone: the one sound format that needs no extra package."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import MediaError


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
