"""The distances have the values that a calculation by hand gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omni_export.evaluate import metrics
from omni_export.evaluate.metrics import TokenScores


def logits(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities)).astype(np.float32)


def test_scores_of_two_distributions() -> None:
    scores = TokenScores()
    scores.add(logits(0.5, 0.25, 0.25), logits(0.25, 0.5, 0.25) + np.float32(3), 0)
    scores.add(logits(0.5, 0.25, 0.25), logits(0.5, 0.25, 0.25), 1)
    assert len(scores) == 2
    # 0.5 log 2 + 0.25 log 0.5
    assert scores.kl == pytest.approx([0.25 * math.log(2), 0], abs=1e-6)
    assert scores.mean_kl == pytest.approx(0.125 * math.log(2), abs=1e-6)
    assert scores.agreement == 0.5
    assert scores.reference_perplexity == pytest.approx(math.sqrt(2 * 4), rel=1e-6)
    assert scores.perplexity == pytest.approx(math.sqrt(4 * 4), rel=1e-6)
    assert scores.extra_nll == pytest.approx(0.5 * math.log(2), abs=1e-6)


def test_large_logits_do_not_overflow() -> None:
    scores = TokenScores()
    scores.add(np.float32([1000, 0]), np.float32([1000, 0]), 0)
    assert scores.kl == [0]
    assert scores.nll == [0]


def test_errors_of_vectors() -> None:
    wanted = np.float32([[3, 0], [0, 4]])
    assert metrics.relative_error(wanted, np.float32([[3, 0], [3, 4]])) == pytest.approx(0.6)
    assert metrics.cosine(wanted, np.float32([[1, 1], [0, 1]])) == pytest.approx((math.sqrt(0.5) + 1) / 2)
    assert metrics.snr(wanted, np.float32([[3.003, 0], [0, 4.004]])) == pytest.approx(60, abs=0.01)
    assert metrics.snr(wanted, wanted) == metrics.HIGHEST_SNR


def test_a_mel_that_is_twice_as_loud_is_six_decibels_away() -> None:
    mel = np.random.default_rng(0).standard_normal((20, 80)).astype(np.float32)
    assert metrics.mel_distance(mel, mel + np.float32(math.log(2))) == pytest.approx(6.0206, abs=1e-3)


def test_a_sound_that_is_half_as_loud_is_six_decibels_away() -> None:
    sound = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)
    assert metrics.log_spectral_distance(sound, sound / 2) == pytest.approx(6.0206, abs=1e-3)
    assert metrics.log_spectral_distance(sound, sound) == 0
    # Below the floor of 80 dB nothing is compared.
    assert metrics.log_spectral_distance(sound, sound + np.float32(1e-6) * sound[::-1]) < 1e-4


def test_a_sound_shorter_than_a_frame_has_a_spectrum() -> None:
    sound = np.ones(100, np.float32)
    assert metrics.log_spectral_distance(sound, sound * 2) > 5
