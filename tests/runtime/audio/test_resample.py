"""Sample-rate conversion against exact sines, and as a stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from omni_edge.audio.resample import Resampler, ResampleState, resampler
from omni_edge.errors import MediaError
from support.perception import babble, splits, tone

TARGET = 16000
SOURCES = [8000, 11025, 22050, 24000, 44100, 48000, 96000, 12345]
EDGE = 200  # outputs at either end that see the silence around the sound


def convert(samples: NDArray[np.float32], source: int, sizes: list[int], target: int = TARGET) -> NDArray[np.float32]:
    """The whole sound, pushed in pieces of `sizes`."""
    converter, state = resampler(source, target), ResampleState()
    steps = [converter.step(samples[cut], state) for cut in splits(samples.size, sizes)]
    steps.append(converter.step(samples[:0], state, end=True))
    return np.concatenate([np.zeros(0, np.float32), *(step for step in steps if step is not None)])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("part", [0.01, 0.3, 0.7, 0.91])
def test_sines_keep_their_shape(source: int, part: float) -> None:
    """At least 80 dB of signal to error up to 91 % of the lower rate's Nyquist frequency (measured: 85 and more)."""
    frequency = part * min(source, TARGET) / 2
    output = convert(tone(frequency, source, 0.5), source, [1 << 20])
    exact = tone(frequency, TARGET, len(output) / TARGET)
    error = (output - exact)[EDGE:-EDGE]
    assert 10 * np.log10(np.mean(exact[EDGE:-EDGE] ** 2) / np.mean(error**2)) > 80


@pytest.mark.parametrize("source", [22050, 44100, 48000])
@pytest.mark.parametrize("frequency", [8010.0, 8500.0, 9500.0, 10900.0])
def test_what_lies_above_the_new_nyquist_frequency_is_gone(source: int, frequency: float) -> None:
    """Aliases at least 80 dB below the tone that would cause them (measured: 88 and more)."""
    output = convert(tone(frequency, source, 0.5), source, [1 << 20])[EDGE:-EDGE]
    assert 10 * np.log10(np.mean(output**2) / np.mean(tone(frequency, source, 0.5) ** 2)) < -80


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("samples", [0, 1, 2, 159, 1000, 7777])
def test_the_length_is_the_duration(source: int, samples: int) -> None:
    assert convert(babble(samples, 0), source, [500]).size == -(-samples * TARGET // source)


def test_a_constant_stays_the_same_constant() -> None:
    output = convert(np.full(4000, 0.5, np.float32), 44100, [4000])
    np.testing.assert_allclose(output[EDGE:-EDGE], 0.5, atol=1e-6)


def test_equal_rates_are_the_identity() -> None:
    samples = babble(1000, 1)
    assert Resampler(TARGET, TARGET).step(samples, ResampleState()) is samples
    np.testing.assert_array_equal(convert(samples, TARGET, [7, 100]), samples)


@settings(max_examples=40, deadline=None)
@given(
    source=st.sampled_from(SOURCES),
    target=st.sampled_from([TARGET, 24000]),
    length=st.integers(0, 6000),
    sizes=st.lists(st.integers(0, 2500), min_size=1, max_size=6).filter(any),
)
def test_any_split_gives_the_same_output(source: int, target: int, length: int, sizes: list[int]) -> None:
    samples = babble(length, 2)
    whole = convert(samples, source, [1 << 20], target)
    np.testing.assert_allclose(convert(samples, source, sizes, target), whole, rtol=0, atol=2e-6)


def test_output_never_depends_on_what_comes_later() -> None:
    converter = resampler(44100, TARGET)
    first, later = babble(5000, 3), babble(5000, 4)
    state, other = ResampleState(), ResampleState()
    early = converter.step(first, state)
    both = converter.step(np.concatenate([first, later]), other)
    assert early is not None
    assert both is not None
    # 64 zero crossings at 16 kHz and one tile: no more than 5 ms behind the input.
    assert early.size >= 5000 * TARGET / 44100 - 0.005 * TARGET
    np.testing.assert_allclose(early, both[: early.size], rtol=0, atol=2e-6)


def test_a_reset_state_is_a_new_stream_and_stays_small() -> None:
    converter, state = resampler(48000, TARGET), ResampleState()
    first = converter.step(babble(48000, 5), state)
    assert 0 < state.nbytes < 8192
    state.reset()
    again = converter.step(babble(48000, 5), state)
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first, again)


def test_a_piece_too_small_for_an_output_yields_nothing() -> None:
    assert resampler(48000, TARGET).step(babble(10, 6), ResampleState()) is None


def test_a_rate_that_no_sound_has_is_refused() -> None:
    with pytest.raises(MediaError, match="sample rate"):
        Resampler(0, TARGET)
