"""GPTQ: what error feedback gains, that it is the published method, and that its result does not vary."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_quant.blockwise import dequantize_blockwise, quantize_blockwise
from omni_quant.gptq import DAMPING, Feedback, feedback, quantize_with_feedback, second_moments
from omni_quant.group_search import quantize_groups

Array = NDArray[np.float32]
BLOCK = 32


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def correlated(seed: int, count: int, columns: int) -> Array:
    """Inputs of which a few directions hold most of the variance, as a layer's activations do."""
    directions = normal(seed, columns // 8, columns)
    return normal(seed + 1, count, columns // 8) @ directions + 0.5 * normal(seed + 2, count, columns)


def quantized(weight: Array, feedbacks: list[Feedback], *, threads: int = 1, zero_points: bool = True) -> Array:
    rows, columns = weight.shape
    return dequantize_blockwise(
        quantize_with_feedback(
            lambda start, stop: weight[start:stop],
            rows,
            columns,
            feedbacks,
            bits=4,
            block_size=BLOCK,
            zero_points=zero_points,
            threads=threads,
        )
    )


def output_error(weight: Array, stored: Array, inputs: Array) -> float:
    return float(np.square(inputs @ (weight - stored).T).sum() / np.square(inputs @ weight.T).sum())


@pytest.mark.parametrize("zero_points", [True, False])
def test_feedback_halves_the_error_of_outputs_at_least(zero_points: bool) -> None:
    inputs, weight = correlated(0, 1024, 256), normal(5, 96, 256)
    moments = inputs.T @ inputs
    unseen = correlated(0, 4096, 256)[1024:]
    rounded = dequantize_blockwise(
        quantize_blockwise(
            weight,
            bits=4,
            block_size=BLOCK,
            float16_scales=True,
            zero_points=zero_points,
            importance=np.diagonal(moments).copy(),
        )
    )
    stored = quantized(weight, [feedback(moments, BLOCK)], zero_points=zero_points)
    assert output_error(weight, stored, unseen) < 0.5 * output_error(weight, rounded, unseen)


def by_falling_moment(moments: Array) -> NDArray[np.int64]:
    groups = np.diagonal(moments).reshape(-1, BLOCK)
    order = sorted(range(len(groups)), key=lambda group: -groups[group].sum())
    return np.concatenate([group * BLOCK + np.argsort(-groups[group], kind="stable") for group in order])


def published_method(weight: Array, moments: Array, block: int) -> NDArray[np.float64]:
    """GPTQ as its paper has it, in double precision: the inverse of the moments, a column eliminated after another."""
    columns = weight.shape[1]
    left = moments.astype(np.float64)
    left[np.diag_indices(columns)] += DAMPING * np.diagonal(moments).mean(dtype=np.float64)
    importance = (np.diagonal(left) / np.diagonal(moments).mean(dtype=np.float64)).astype(np.float32)
    inverse = np.linalg.inv(left)
    remaining, stored = weight.astype(np.float64), np.zeros(weight.shape)
    scale = zero = np.zeros(len(weight))
    for column in range(columns):
        if column % block == 0:
            here = slice(column, column + block)
            group = quantize_groups(remaining[:, None, here].astype(np.float32), 4, True, True, importance[None, here])
            assert group.zero_points is not None
            scale, zero = group.scales[:, 0].astype(np.float64), group.zero_points[:, 0].astype(np.float64)
        code = np.clip(np.rint(remaining[:, column] / scale) + zero, 0, 15)
        stored[:, column] = (code - zero) * scale
        error = (remaining[:, column] - stored[:, column]) / inverse[column, column]
        remaining -= error[:, None] * inverse[column]
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        # What rounding leaves of the eliminated column.
        inverse[column] = inverse[:, column] = 0
    return stored


def test_it_is_the_published_method() -> None:
    inputs, weight = correlated(10, 512, 96), normal(15, 24, 96)
    moments = (inputs.T @ inputs).astype(np.float64)
    order = by_falling_moment(moments)
    assert sorted(order) == list(range(96))
    expected = np.empty(weight.shape)
    expected[:, order] = published_method(weight[:, order], moments[np.ix_(order, order)], BLOCK)
    np.testing.assert_allclose(quantized(weight, [feedback(moments, BLOCK)]), expected, atol=1e-6)


def test_the_result_depends_on_neither_threads_nor_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, weight = correlated(20, 512, 64), normal(25, 100, 64)
    feedbacks = [feedback(inputs.T @ inputs, BLOCK)]
    whole = quantized(weight, feedbacks)
    monkeypatch.setattr("omni_quant.gptq._ROWS", 32)
    for threads in (1, 2, 5):
        assert np.array_equal(quantized(weight, feedbacks, threads=threads), whole)


def test_blocks_of_columns_are_matrices_of_their_own() -> None:
    inputs, weight = correlated(30, 512, 128), normal(35, 16, 128)
    parts = [slice(0, 64), slice(64, 128)]
    feedbacks = [feedback(inputs[:, part].T @ inputs[:, part], BLOCK) for part in parts]
    whole = quantized(weight, feedbacks)
    for part, own in zip(parts, feedbacks, strict=True):
        assert np.array_equal(whole[:, part], quantized(np.ascontiguousarray(weight[:, part]), [own]))


def test_columns_beyond_the_matrix_and_columns_that_are_never_used_cost_nothing() -> None:
    inputs, weight = correlated(40, 512, 70), normal(45, 16, 70)
    inputs[:, 5] = 0
    padded = np.pad(inputs, ((0, 0), (0, 96 - 70)))
    stored = quantized(weight, [feedback(padded.T @ padded, BLOCK)])
    assert stored.shape == weight.shape
    assert output_error(weight, stored, inputs) < 0.01
    assert np.abs(stored[:, 5] - weight[:, 5]).max() < 0.4


def test_inputs_that_are_all_zero_leave_plain_rounding() -> None:
    weight = normal(50, 8, 64)
    rounded = quantize_blockwise(weight, bits=4, block_size=BLOCK, float16_scales=True, zero_points=True)
    stored = quantized(weight, [feedback(np.zeros((64, 64), np.float32), BLOCK)])
    np.testing.assert_allclose(stored, dequantize_blockwise(rounded), atol=1e-6)


def test_few_inputs_do_not_make_feedback_worse_than_rounding() -> None:
    inputs, weight = normal(70, 96, 128), normal(75, 64, 128)
    unseen = normal(76, 4096, 128)
    plain = np.diag(np.diagonal(inputs.T @ inputs))
    rounded = output_error(weight, quantized(weight, [feedback(plain, BLOCK)]), unseen)
    noisy = output_error(weight, quantized(weight, [feedback(inputs.T @ inputs, BLOCK)]), unseen)
    freed = output_error(weight, quantized(weight, [feedback(second_moments(inputs), BLOCK)]), unseen)
    assert noisy > 1.2 * rounded
    assert freed < 1.03 * rounded


def test_many_inputs_are_taken_as_they_are() -> None:
    inputs = correlated(80, 8192, 64)
    plain = inputs.T @ inputs / len(inputs)
    moments = second_moments(inputs)
    assert np.array_equal(np.diagonal(moments), np.diagonal(plain))
    assert 0.97 < np.linalg.norm(moments) / np.linalg.norm(plain) < 1


def test_columns_without_inputs_leave_the_moments_of_others_alone() -> None:
    inputs = correlated(90, 256, 64)
    wider = np.concatenate([inputs, np.zeros((256, 32), np.float32)], axis=1)
    np.testing.assert_allclose(second_moments(wider)[:64, :64], second_moments(inputs), rtol=1e-5, atol=1e-5)
    assert not second_moments(wider)[64:].any()


def test_inputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="activations that are not finite"):
        second_moments(np.full((4, 32), np.inf, np.float32))


def test_moments_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        feedback(np.full((32, 32), np.nan, np.float32), BLOCK)


def test_feedback_for_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="32 columns, not for 2 groups of 32"):
        quantized(normal(60, 4, 64), [feedback(np.eye(32, dtype=np.float32), BLOCK)])
