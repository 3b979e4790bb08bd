"""The one door for samples and rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from omni_edge.audio.samples import validate_pcm, validate_rate
from omni_edge.errors import MediaError


def test_mono_float32_passes_without_a_copy() -> None:
    samples = np.array([0.0, -1.0, 1.0], np.float32)
    assert validate_pcm(samples) is samples


def test_int16_is_scaled_and_stereo_averaged() -> None:
    np.testing.assert_array_equal(validate_pcm(np.array([-32768, 16384], np.int16)), np.array([-1.0, 0.5], np.float32))
    stereo = np.array([[0.5, -0.25], [1.0, 0.0]])
    result = validate_pcm(stereo)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.array([0.125, 0.5], np.float32))
    assert validate_pcm(np.zeros((0, 2), np.int16)).shape == (0,)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.array([0.0, np.nan]), "no numbers"),
        (np.array([0.0, -np.inf], np.float32), "no numbers"),
        (np.array([0.0, 20000.0]), "divide them by 32768"),
        (np.zeros(3, np.int64), "int64"),
        (np.zeros(3, np.uint8), "uint8"),
        (np.zeros((2, 2, 2)), r"\[2, 2, 2\]"),
        (np.zeros((4, 0)), r"\[4, 0\]"),
        (np.float32(0.5), "shape"),
    ],
)
def test_what_is_no_sound_is_refused(samples: Any, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        validate_pcm(samples)


@pytest.mark.parametrize("rate", [0, -16000, 999, 1_000_000, 16000.0, True, "16000"])
def test_impossible_rates_are_refused(rate: Any) -> None:
    with pytest.raises(MediaError, match="sample rate"):
        validate_rate(rate)


def test_integer_rates_pass() -> None:
    assert validate_rate(44100) == 44100
    assert validate_rate(np.int32(8000)) == 8000  # type: ignore[arg-type]
