"""What the encoders' exporters write into the manifest, from both spellings of `preprocessor_config.json`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.config import AudioConfig, VisionConfig
from omni_export.models import audio_encoder, vision_encoder

AUDIO = AudioConfig()
VISION = VisionConfig(hidden_size=1280)
PUBLISHED: dict[str, Any] = {
    "feature_size": 128,
    "hop_length": 160,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "max_pixels": 1_000_000,
    "merge_size": 2,
    "min_pixels": 4000,
    "n_fft": 400,
    "patch_size": 14,
    "sampling_rate": 16000,
    "temporal_patch_size": 2,
}


@pytest.mark.parametrize("preprocessor", [PUBLISHED, {}], ids=["published", "silent"])
def test_audio_section(preprocessor: dict[str, Any]) -> None:
    section = audio_encoder.section(AUDIO, preprocessor)
    assert (section.sample_rate, section.n_fft, section.hop_length) == (16000, 400, 160)
    assert (section.n_mels, section.block_frames) == (128, 200)


def test_audio_section_follows_the_files() -> None:
    section = audio_encoder.section(
        AudioConfig(num_mel_bins=80, n_window=50),
        {"feature_size": 80, "sampling_rate": 8000, "hop_length": 80, "n_fft": 256},
    )
    assert (section.sample_rate, section.n_fft, section.hop_length) == (8000, 256, 80)
    assert (section.n_mels, section.block_frames) == (80, 100)


def test_other_mel_bins_than_the_encoder_takes_are_refused() -> None:
    with pytest.raises(CheckpointError, match="feature_size 80"):
        audio_encoder.section(AUDIO, {"feature_size": 80})


def test_vision_section_of_the_published_files() -> None:
    section = vision_encoder.section(VISION, PUBLISHED, max_positions=32768)
    assert (section.patch_size, section.temporal_patch_size, section.merge_size, section.window_size) == (14, 2, 2, 112)
    assert (section.head_dim, section.rope_theta) == (80, 10_000.0)
    assert (section.min_pixels, section.max_pixels) == (4000, 1_000_000)
    assert (section.mean, section.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_video_may_fill_nine_tenths_of_the_context() -> None:
    section = vision_encoder.section(VISION, PUBLISHED, max_positions=32768)
    assert (section.video_fps, section.video_min_frames, section.video_max_frames) == (2.0, 4, 768)
    assert (section.video_min_pixels, section.video_max_pixels) == (128 * 28 * 28, 768 * 28 * 28)
    assert section.video_total_pixels == 29491 * 28 * 28


def test_pixel_limits_in_the_newer_spelling_and_left_out() -> None:
    newer = {"size": {"shortest_edge": 5000, "longest_edge": 2_000_000}}
    section = vision_encoder.section(VISION, newer, max_positions=32768)
    assert (section.min_pixels, section.max_pixels) == (5000, 2_000_000)
    silent = vision_encoder.section(VISION, {}, max_positions=32768)
    assert (silent.min_pixels, silent.max_pixels) == (3136, 12_845_056)
    assert silent.mean == (0.48145466, 0.4578275, 0.40821073)
    assert silent.std == (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize("key", ["patch_size", "temporal_patch_size", "merge_size"])
def test_other_patches_than_the_encoder_takes_are_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"{key} 3, vision_config says"):
        vision_encoder.section(VISION, {**PUBLISHED, key: 3}, max_positions=32768)


@pytest.mark.parametrize("heads", [3, 640])
def test_heads_without_rotary_pairs_for_rows_and_columns_are_refused(heads: int) -> None:
    with pytest.raises(CheckpointError, match="multiple of 4"):
        vision_encoder.section(replace(VISION, num_heads=heads), PUBLISHED, max_positions=32768)
