"""The growing WAV file, read by Python's own reader."""

from __future__ import annotations

import io
import signal
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from omni_edge.errors import UsageError
from omni_edge.media.wav import WavWriter

RATE = 24_000


def read(path: Path) -> tuple[int, np.ndarray]:
    """Rate and int16 samples; the sizes in the header must be those of the file."""
    data = path.read_bytes()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert int.from_bytes(data[40:44], "little") == len(data) - 44
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_the_file_is_valid_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "reply.wav"
    tone = np.sin(np.arange(1000, dtype=np.float32) / 10)
    with WavWriter(path, RATE) as wav:
        assert read(path)[1].size == 0
        for part in np.split(tone, 10):
            wav.write(part)
            rate, samples = read(path)
            assert rate == RATE
            assert samples.size == wav.samples
    np.testing.assert_array_equal(read(path)[1], np.rint(tone * 32767).astype(np.int16))


def test_samples_are_clipped_not_wrapped(tmp_path: Path) -> None:
    with WavWriter(tmp_path / "loud.wav", RATE) as wav:
        wav.write(np.array([-2, -1, 0, 1, 2], np.float32))
    assert read(tmp_path / "loud.wav")[1].tolist() == [-32767, -32767, 0, 32767, 32767]


def test_a_file_that_cannot_be_created_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        WavWriter(tmp_path, RATE)


@pytest.fixture
def small_disk() -> Iterator[int]:
    """No file of this process may grow beyond a few kilobytes."""
    resource = pytest.importorskip("resource", reason="Windows has no limit for the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_leaves_a_valid_file_of_what_fitted(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "reply.wav"
    with WavWriter(path, RATE) as wav, pytest.raises(OSError, match="File too large"):
        wav.write(np.full(5000, 0.5, np.float32))
    assert read(path)[1].tolist() == [16384] * ((small_disk - 44) // 2)
