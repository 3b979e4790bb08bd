"""Blocks for the audio encoder: cutting, token counts, the clip maximum, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from omni_edge.audio.front_end import AudioBlock, AudioFrontEnd, AudioFrontEndState, audio_tokens
from omni_edge.audio.mel import LogMel, LogMelState, normalize
from omni_edge.errors import MediaError
from support.perception import AUDIO, babble, splits

HOP, BLOCK = AUDIO.hop_length, AUDIO.block_frames
FRONT_END = AudioFrontEnd(AUDIO)


def live(samples: NDArray[Any], sizes: list[int], state: AudioFrontEndState) -> list[AudioBlock]:
    blocks = [block for cut in splits(len(samples), sizes) for block in FRONT_END.step(samples[cut], state)]
    return blocks + FRONT_END.step(samples[:0], state, end=True)


def assert_same(left: list[AudioBlock], right: list[AudioBlock], tolerance: float) -> None:
    assert [(block.index, block.final, block.frames.shape) for block in left] == [
        (block.index, block.final, block.frames.shape) for block in right
    ]
    for one, other in zip(left, right, strict=True):
        np.testing.assert_allclose(one.frames, other.frames, rtol=0, atol=tolerance)


@pytest.mark.parametrize("frames", [3, 4, 5, 199, 200, 201, 202, 203, 204, 400, 401, 563])
def test_tokens_add_up_to_the_references_count(frames: int) -> None:
    from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import _get_feat_extract_output_lengths

    samples = babble(frames * HOP - 7, frames)
    total = int(_get_feat_extract_output_lengths(frames))
    for blocks in (FRONT_END.clip(samples), live(samples, [3000], FRONT_END.state())):
        assert sum(block.tokens for block in blocks) == total
        assert [block.index for block in blocks] == list(range(len(blocks)))
        assert all(block.frames.shape == (AUDIO.n_mels, BLOCK) for block in blocks[:-1])
        # One or two left-over frames make no token; their block is not sent.
        kept = frames - frames % BLOCK if frames % BLOCK in (1, 2) else frames
        assert sum(block.frames.shape[1] for block in blocks) == kept
        assert blocks[-1].final == (kept == frames)


def test_a_clip_equals_the_reference_over_several_blocks() -> None:
    from transformers import WhisperFeatureExtractor

    samples = babble(90001, 1)
    samples[60000:] *= 0.01
    extractor = WhisperFeatureExtractor(feature_size=AUDIO.n_mels, chunk_length=7, return_attention_mask=True)
    features = extractor([samples], sampling_rate=AUDIO.sample_rate, padding="max_length", return_tensors="np")
    frames = np.concatenate([block.frames for block in FRONT_END.clip(samples)], axis=1)
    np.testing.assert_allclose(frames, features["input_features"][0][:, : frames.shape[1]], rtol=0, atol=1e-4)


def test_a_live_block_uses_the_loudest_value_up_to_its_end() -> None:
    samples = babble(5 * 32000 + 4000, 2)
    samples[:70000] *= 1e-3
    state = LogMelState()
    raw = LogMel(AUDIO).step(samples, state, end=True)
    assert raw is not None
    blocks = live(samples, [1234], FRONT_END.state())
    assert len(blocks) == 6
    for block in blocks:
        end = block.index * BLOCK + block.frames.shape[1]
        loudest = state.peak if block.final else float(raw[:, :end].max())
        wanted = normalize(raw[:, block.index * BLOCK : end], loudest)
        np.testing.assert_allclose(block.frames, wanted, rtol=0, atol=2e-6)
    # The rule differs from the clip's where something louder is still to come, and only upwards of the true floor.
    clip = FRONT_END.clip(samples)
    assert np.abs(blocks[0].frames - clip[0].frames).max() > 0.1
    assert all((one.frames <= other.frames + 2e-6).all() for one, other in zip(blocks, clip, strict=True))
    np.testing.assert_allclose(blocks[-1].frames, clip[-1].frames, rtol=0, atol=2e-6)


def test_a_live_sound_of_one_block_equals_the_clip() -> None:
    samples = babble(30000, 3)
    samples[-3:] = 1.0
    assert_same(live(samples, [999], FRONT_END.state()), FRONT_END.clip(samples), 2e-6)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1000, 70000),
    rate=st.sampled_from([16000, 44100, 8000]),
    sizes=st.lists(st.integers(0, 20000), min_size=1, max_size=5).filter(any),
)
def test_any_split_gives_the_same_blocks(length: int, rate: int, sizes: list[int]) -> None:
    samples = babble(length, 4)
    # The resampler's float32 products differ by a few 1e-7, which quiet bins show in the logarithm.
    tolerance = 2e-6 if rate == AUDIO.sample_rate else 2e-3
    assert_same(live(samples, sizes, FRONT_END.state(rate)), live(samples, [1 << 20], FRONT_END.state(rate)), tolerance)


def test_blocks_do_not_depend_on_what_comes_later() -> None:
    first, later = babble(80000, 5), np.ones(40000, np.float32)
    early = FRONT_END.step(first, FRONT_END.state())
    both = FRONT_END.step(np.concatenate([first, later]), FRONT_END.state())
    assert len(early) == 2
    assert_same(early, both[:2], 2e-6)


def test_a_block_comes_with_its_last_sample() -> None:
    samples, state = babble(40000, 6), FRONT_END.state()
    needed = (BLOCK - 1) * HOP + AUDIO.n_fft // 2
    assert FRONT_END.step(samples[: needed - 1], state) == []
    assert len(FRONT_END.step(samples[needed - 1 : needed], state)) == 1


def test_other_rates_and_types_give_nearly_the_same_mel() -> None:
    time = np.arange(48000 * 2) / 48000
    sound = sum(0.1 * np.sin(2 * np.pi * f * time + f) for f in (220.0, 1030.0, 3300.0))
    reference = np.concatenate([block.frames for block in FRONT_END.clip(np.asarray(sound)[::3])], axis=1)
    stereo = np.round(np.stack([sound, sound], axis=1) * 32767).astype(np.int16)
    frames = np.concatenate([block.frames for block in FRONT_END.clip(stereo, 48000)], axis=1)
    assert frames.shape == reference.shape
    loud = reference > 0.5
    assert loud.sum() > 1000
    np.testing.assert_allclose(frames[:, 5:-5][loud[:, 5:-5]], reference[:, 5:-5][loud[:, 5:-5]], atol=0.02)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "empty"),
        (np.zeros(320, np.float32), "20.0 ms, too short"),
        (np.full(5000, np.nan, np.float32), "no numbers"),
    ],
)
def test_unusable_sounds_are_refused(samples: NDArray[np.float32], message: str) -> None:
    with pytest.raises(MediaError, match=message):
        FRONT_END.clip(samples)
    with pytest.raises(MediaError, match=message):
        FRONT_END.step(samples, FRONT_END.state(), end=True)


def test_the_shortest_sound_makes_one_token() -> None:
    blocks = FRONT_END.clip(babble(321, 7))
    assert [block.tokens for block in blocks] == [1]
    assert blocks[0].final


def test_refused_samples_leave_the_sound_unchanged() -> None:
    samples, state = babble(50000, 8), FRONT_END.state()
    blocks = FRONT_END.step(samples[:20000], state)
    with pytest.raises(MediaError, match="no numbers"):
        FRONT_END.step(np.array([np.inf]), state)
    blocks += FRONT_END.step(samples[20000:], state, end=True)
    assert_same(blocks, live(samples, [1 << 20], FRONT_END.state()), 2e-6)


def test_a_reset_state_is_a_new_sound_and_stays_small() -> None:
    samples, state = babble(100000, 9), FRONT_END.state(24000)
    first = live(samples, [4000], state)
    assert state.nbytes < 4 * AUDIO.n_mels * BLOCK + 8192
    state.reset()
    assert state.rate == 24000
    assert_same(live(samples, [4000], state), first, 0.0)


def test_token_count_of_a_block() -> None:
    assert [audio_tokens(frames) for frames in (0, 1, 2, 3, 6, 7, 199, 200)] == [0, 0, 0, 1, 1, 2, 50, 50]
