"""The log-mel front end against transformers' `WhisperFeatureExtractor`, as the Qwen2.5-Omni processor calls it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from omni_edge.audio.mel import LogMel, LogMelState, normalize, slaney_filters
from support.perception import AUDIO, babble, splits

# float32 transform of the reference against our float64 one, after normalisation (measured: 4e-5 at most).
TOLERANCE = 1e-4
LENGTHS = [1, 159, 160, 161, 320, 321, 400, 1600, 1759, 31999, 32000, 32001, 50000]


@pytest.fixture(scope="module")
def extractor() -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(
        feature_size=AUDIO.n_mels,
        sampling_rate=AUDIO.sample_rate,
        hop_length=AUDIO.hop_length,
        n_fft=AUDIO.n_fft,
        chunk_length=6,
        return_attention_mask=True,
    )


def expected(extractor: Any, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The frames that the reference counts, normalised: float32 [n_mels, frames]."""
    features = extractor(
        [samples],
        sampling_rate=AUDIO.sample_rate,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="np",
    )
    frames: NDArray[np.float32] = features["input_features"][0][:, features["attention_mask"][0].astype(bool)]
    return frames


def stream(log_mel: LogMel, samples: NDArray[np.float32], sizes: list[int], state: LogMelState) -> NDArray[np.float32]:
    steps = [log_mel.step(samples[cut], state) for cut in splits(samples.size, sizes)]
    steps.append(log_mel.step(samples[:0], state, end=True))
    return np.concatenate([step for step in steps if step is not None], axis=1)


def test_filters_equal_the_reference(extractor: Any) -> None:
    filters = slaney_filters(AUDIO.sample_rate, AUDIO.n_fft, AUDIO.n_mels)
    np.testing.assert_allclose(filters, extractor.mel_filters, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("sound", ["babble", "fade", "silence", "loud end"])
def test_a_clip_equals_the_reference(extractor: Any, length: int, sound: str) -> None:
    samples = babble(length, length)
    if sound == "fade":
        samples *= np.exp(-np.linspace(0, 12, length)).astype(np.float32)
    elif sound == "silence":
        samples[:] = 0.0
    elif sound == "loud end":
        # The maximum lies in a frame beyond those that count.
        samples *= 1e-4
        samples[-3:] = 1.0
    state = LogMelState()
    frames = stream(LogMel(AUDIO), samples, [1 << 20], state)
    reference = expected(extractor, samples)
    assert frames.shape == reference.shape
    assert frames.shape[1] == state.frames == -(-length // AUDIO.hop_length)
    np.testing.assert_allclose(normalize(frames, state.peak), reference, rtol=0, atol=TOLERANCE)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 12000), sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=6).filter(any))
def test_any_split_gives_the_same_frames(length: int, sizes: list[int]) -> None:
    log_mel, samples = LogMel(AUDIO), babble(length, 1)
    whole, pieces = LogMelState(), LogMelState()
    np.testing.assert_allclose(
        stream(log_mel, samples, sizes, pieces), stream(log_mel, samples, [1 << 20], whole), rtol=0, atol=2e-6
    )
    assert pieces.peak == pytest.approx(whole.peak, abs=2e-6)


def test_frames_come_as_soon_as_their_samples_do_and_ignore_later_ones() -> None:
    log_mel, samples = LogMel(AUDIO), babble(8000, 2)
    changed = samples.copy()
    state = LogMelState()
    half = AUDIO.n_fft // 2
    for last in range(5):
        # Frame k is centred on sample k * hop: it needs half a window behind that.
        needed = max(last * AUDIO.hop_length + half, half + 1)
        assert log_mel.step(samples[state.received : needed - 1], state) is None
        frame = log_mel.step(samples[needed - 1 : needed], state)
        assert frame is not None
        changed[needed:] = 1.0
        whole = log_mel.step(changed, LogMelState())
        assert whole is not None
        np.testing.assert_allclose(frame[:, 0], whole[:, last], rtol=0, atol=2e-6)
        changed[:] = samples


def test_a_reset_state_is_a_new_sound_and_stays_small() -> None:
    log_mel, samples, state = LogMel(AUDIO), babble(16000, 3), LogMelState()
    first = stream(log_mel, samples, [320], state)
    assert state.nbytes < 4 * 4 * AUDIO.n_fft
    state.reset()
    assert (state.pending.size, state.received, state.frames, state.peak) == (0, 0, 0, -np.inf)
    np.testing.assert_array_equal(stream(log_mel, samples, [320], state), first)
