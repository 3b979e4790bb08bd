"""WAV headers as programs write them, with PyAV and without: both read the same samples."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from omni_edge.errors import MediaError
from omni_edge.media import load_audio

RATE = 8000
SAMPLES = (0.5 * np.sin(np.arange(4000) / 5) * 32767).astype("<i2")
PLACEHOLDERS = [0, 0x7FFFF000, 0x7FFFF024, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFFF]


@pytest.fixture(params=["PyAV", "no PyAV"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no PyAV":
        monkeypatch.setitem(sys.modules, "av", None)
    return str(request.param)


def header(
    data: int, riff: int | None = None, *, kind: int = 1, bits: int = 16, channels: int = 1, extra: bytes = b""
) -> bytes:
    width = bits // 8 * channels
    coding = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, channels, RATE, RATE * width, width, bits)
    size = 36 + len(extra) + data if riff is None else riff
    return b"RIFF" + struct.pack("<I", size & 0xFFFFFFFF) + b"WAVE" + coding + extra + b"data" + struct.pack("<I", data)


def load(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    clip = load_audio(path)
    assert clip.rate == RATE
    return clip.samples


@pytest.mark.parametrize("data", PLACEHOLDERS)
@pytest.mark.parametrize("riff", [0, 36, 0x7FFFF024, 0xFFFFFFFF])
def test_a_placeholder_is_no_length(tmp_path: Path, data: int, riff: int) -> None:
    found = load(tmp_path / "a.wav", header(data, riff) + SAMPLES.tobytes())
    np.testing.assert_allclose(found, SAMPLES / 32768, atol=1e-7)


@pytest.mark.parametrize("declared", [8000, 0xFFFFFFFFFFFFFFFF, 0])
def test_rf64(tmp_path: Path, declared: int) -> None:
    long = b"ds64" + struct.pack("<IQQQI", 28, declared, declared, declared // 2, 0)
    content = b"RF64" + header(0xFFFFFFFF, 0xFFFFFFFF, extra=b"")[4:]
    content = content[:12] + long + content[12:] + SAMPLES.tobytes()
    np.testing.assert_allclose(load(tmp_path / "a.wav", content), SAMPLES / 32768, atol=1e-7)


def test_a_cut_rf64_is_refused(tmp_path: Path) -> None:
    long = b"ds64" + struct.pack("<IQQQI", 28, 1 << 33, 1 << 33, 1 << 32, 0)
    content = header(0xFFFFFFFF, 0xFFFFFFFF)
    (tmp_path / "a.wav").write_bytes(b"RF64" + content[4:12] + long + content[12:] + SAMPLES.tobytes())
    with pytest.raises(MediaError, match=r"cut off: it declares 536870\.9 s and holds 0\.5 s"):
        load_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("held", [0.5, 0.89])
def test_a_cut_wav_is_refused(tmp_path: Path, held: float) -> None:
    data = SAMPLES.tobytes()
    (tmp_path / "a.wav").write_bytes(header(len(data)) + data[: int(held * len(data))])
    with pytest.raises(MediaError, match=r"cut off: it declares 0\.5 s"):
        load_audio(tmp_path / "a.wav")


def test_the_last_block_may_be_missing(tmp_path: Path) -> None:
    data = SAMPLES.tobytes()
    assert load(tmp_path / "a.wav", header(len(data)) + data[:-101]).size == (len(data) - 101) // 2


def test_chunks_around_the_samples_are_no_samples(tmp_path: Path) -> None:
    extra = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"  # odd, so padded
    tail = b"bext" + struct.pack("<I", 600) + bytes(range(200)) * 3
    content = header(len(SAMPLES) * 2, extra=extra) + SAMPLES.tobytes() + tail
    np.testing.assert_allclose(load(tmp_path / "a.wav", content), SAMPLES / 32768, atol=1e-7)


@pytest.mark.parametrize("bits", [32, 64])
def test_floating_point_samples(tmp_path: Path, bits: int) -> None:
    values = (SAMPLES / 32768).astype(f"<f{bits // 8}")
    content = header(values.nbytes, kind=3, bits=bits) + values.tobytes()
    np.testing.assert_allclose(load(tmp_path / "a.wav", content), SAMPLES / 32768, atol=1e-7)


def test_extensible_headers(tmp_path: Path) -> None:
    """What recorders write for 24 bits and more than two channels."""
    stereo = np.stack([SAMPLES, SAMPLES // 2], axis=1)
    coding = struct.pack("<HHIIHHHHIH", 0xFFFE, 2, RATE, RATE * 4, 4, 16, 22, 16, 3, 1)
    coding += b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    chunks = b"WAVEfmt " + struct.pack("<I", 40) + coding + b"data" + struct.pack("<I", stereo.nbytes)
    content = b"RIFF" + struct.pack("<I", len(chunks) + stereo.nbytes) + chunks + stereo.tobytes()
    np.testing.assert_allclose(load(tmp_path / "a.wav", content), stereo.mean(axis=1) / 32768, atol=1e-6)


@pytest.mark.parametrize("length", [12, 20, 36, 43])
def test_half_a_header_is_refused(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.wav").write_bytes(header(8000)[:length])
    with pytest.raises(MediaError):
        load_audio(tmp_path / "a.wav")


def test_no_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(header(0))
    with pytest.raises(MediaError, match="without a single sample"):
        load_audio(tmp_path / "a.wav")
