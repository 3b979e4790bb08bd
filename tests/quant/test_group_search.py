"""The search for scales and zero points: never worse than rounding, and right where groups are degenerate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_quant import Groups, quantize_groups

Array = np.ndarray


def search(grouped: Array, importance: Array | None = None) -> Groups:
    return quantize_groups(grouped.astype(np.float32), 4, True, True, importance)


def values(groups: Groups) -> Array:
    assert groups.zero_points is not None
    assert groups.codes.max() <= 15
    assert groups.zero_points.max() <= 15
    assert groups.scales.dtype == np.float16
    signed = groups.codes.astype(np.float64) - groups.zero_points[..., None]
    return signed * groups.scales.astype(np.float64)[..., None]


def rounded(grouped: Array) -> Array:
    """Values rounded to sixteen codes from the least to the largest, with a scale in float16."""
    low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float64)[..., None]
    zero = np.rint(-low[..., None] / scale)
    return (np.clip(np.rint(grouped / scale) + zero, 0, 15) - zero) * scale


def random(seed: int, rows: int, blocks: int, size: int) -> Array:
    generator = np.random.default_rng(seed)
    tails = generator.standard_t(generator.integers(2, 30), (rows, blocks, size))
    return (tails + generator.normal(0, 1, (rows, blocks, 1))).astype(np.float32).astype(np.float64)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([16, 32, 64, 128]), st.booleans())
def test_no_group_has_a_larger_error_than_by_rounding(seed: int, size: int, weighted: bool) -> None:
    grouped = random(seed, 7, 3, size)
    importance = np.random.default_rng(seed).exponential(1, (3, size)).astype(np.float32) if weighted else None
    weights = 1.0 if importance is None else importance[None]
    searched = ((values(search(grouped, importance)) - grouped) ** 2 * weights).sum(-1)
    plain = ((rounded(grouped) - grouped) ** 2 * weights).sum(-1)
    assert (searched <= plain * (1 + 1e-4) + 1e-12).all()


@pytest.mark.parametrize(("size", "least"), [(32, 22.1), (64, 21.1), (128, 20.3)])
def test_normal_weights_reach_their_signal_to_noise_ratio(size: int, least: float) -> None:
    grouped = np.random.default_rng(0).standard_normal((200, 10, size))
    error = values(search(grouped)) - grouped
    assert 10 * np.log10((grouped**2).mean() / (error**2).mean()) > least
    plain = rounded(grouped) - grouped
    assert (plain**2).mean() > 1.08 * (error**2).mean()


def test_important_columns_have_smaller_errors() -> None:
    grouped = random(0, 300, 2, 32)
    importance = np.ones((2, 32), np.float32)
    importance[1, :4] = 100
    even = (values(search(grouped)) - grouped) ** 2
    weighted = (values(search(grouped, importance)) - grouped) ** 2
    np.testing.assert_array_equal(weighted[:, 0], even[:, 0])
    assert weighted[:, 1, :4].mean() < 0.6 * even[:, 1, :4].mean()
    assert (weighted * importance).mean() < (even * importance).mean()


def test_columns_without_importance_are_nothing_to_the_search() -> None:
    grouped = random(1, 5, 1, 32)
    importance = np.ones((1, 32), np.float32)
    importance[0, 16:] = 0
    outside = grouped.copy()
    outside[..., 20] = 0.5 * (grouped[..., 20] + grouped.max(-1))
    for each in (search(grouped, importance), search(outside, importance)):
        assert np.isfinite(values(each)).all()
    assert np.isfinite(values(search(grouped, np.zeros((1, 32), np.float32)))).all()


def test_the_caller_keeps_its_weights() -> None:
    for rows in (1, 3):
        grouped = random(rows, rows, 2, 32).astype(np.float32)
        before = grouped.copy()
        search(grouped)
        np.testing.assert_array_equal(grouped, before)


def test_degenerate_groups() -> None:
    zeros, constant, negative, outlier, tiny = np.zeros((5, 1, 32))
    constant += 0.7
    negative -= 3.0
    outlier[0, 5] = 1000.0
    tiny += np.linspace(-1, 1, 32) * 3e-8
    found = values(search(np.stack([zeros, constant, negative, outlier, tiny])))[:, 0]
    assert not found[0].any()
    np.testing.assert_allclose(found[1], 0.7, rtol=2**-11)
    np.testing.assert_allclose(found[2], -3.0, rtol=2**-11)
    np.testing.assert_allclose(found[3], outlier[0], rtol=2**-11)
    # The least step of float16 is 6e-8.
    np.testing.assert_allclose(found[4], tiny[0], atol=2.0**-25)


def test_the_largest_scale_is_that_of_float16() -> None:
    most = 65504.0 * 15
    grouped = np.linspace(-most / 2, most / 2, 32).reshape(1, 1, 32)
    assert np.abs(values(search(grouped)) - grouped).max() < 65504 * 0.75
    for wrong in (grouped * 2, np.full((1, 1, 32), np.nan), np.full((1, 1, 32), -np.inf)):
        with pytest.raises(ValueError, match="not finite, or too large for scales in float16"):
            search(wrong)


def test_values_on_a_grid_are_exact() -> None:
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 16, (20, 4, 32))
    codes[..., :2] = (0, 15)
    scales = generator.uniform(0.01, 2, (20, 4)).astype(np.float16).astype(np.float64)
    grid = (codes - generator.integers(0, 16, (20, 4, 1))) * scales[..., None]
    np.testing.assert_array_equal(values(search(grid)), grid)
