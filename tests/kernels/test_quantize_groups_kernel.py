"""Quantization in C gives what quantization in numpy gives, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from omni_quant import Groups, quantize_groups
from omni_quant.blockwise import BlockwiseWeight
from omni_quant.compiled import quantize_groups as compiled_groups
from omni_quant.gptq import feedback, quantize_with_feedback

Array = np.ndarray
pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def in_numpy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], object]:
    def run(make: Callable[[], object]) -> object:
        with monkeypatch.context() as patch:
            patch.setenv("OMNI_EDGE_KERNELS", "0")
            return make()

    return run


def groups(seed: int, rows: int, blocks: int, size: int) -> Array:
    generator = np.random.default_rng(seed)
    values = generator.standard_t(3, (rows, blocks, size)) + generator.normal(0, 1, (rows, blocks, 1))
    values *= 10.0 ** generator.integers(-9, 5, (rows, blocks, 1))
    values[generator.random((rows, blocks)) < 0.1] = 0
    return values.astype(np.float32)


def assert_same(first: Groups, second: Groups) -> None:
    for field in ("codes", "scales", "zero_points"):
        np.testing.assert_array_equal(getattr(first, field), getattr(second, field), err_msg=field)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "blocks", "size"), [(1, 1, 16), (7, 3, 32), (33, 5, 64), (16, 2, 128), (40, 1, 256)])
def test_the_search_is_numpys(
    in_numpy: Callable[[Callable[[], Groups]], Groups], rows: int, blocks: int, size: int, weighted: bool
) -> None:
    values = groups(size, rows, blocks, size)
    importance = np.random.default_rng(1).exponential(1, (blocks, size)).astype(np.float32) if weighted else None

    def search() -> Groups:
        return quantize_groups(values, 4, True, True, importance)

    assert compiled_groups(values, 4, importance) is not None
    assert_same(search(), in_numpy(search))


def test_views_of_any_strides_are_taken() -> None:
    values = groups(0, 12, 4, 32)
    wanted = quantize_groups(values, 4, True, True)
    columns = np.ascontiguousarray(values.reshape(12, -1).T).T.reshape(12, 4, 32)
    wide = np.zeros((12, 7, 32), np.float32)
    wide[:, 2:6] = values
    for view in (columns, wide[:, 2:6], np.asfortranarray(values)):
        assert_same(quantize_groups(view, 4, True, True), wanted)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e30])
def test_what_has_no_scale_is_refused(wrong: float) -> None:
    values = groups(0, 9, 2, 32)
    values[8, 1, 31] = wrong
    with pytest.raises(ValueError, match="not finite, or too large for scales in float16"):
        quantize_groups(values, 4, True, True)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "size"), [(1, 32), (45, 64)])
def test_feedback_is_numpys(
    in_numpy: Callable[[Callable[[], BlockwiseWeight]], BlockwiseWeight], bits: int, rows: int, size: int
) -> None:
    generator = np.random.default_rng(rows)
    weight = generator.standard_normal((rows, 256), np.float32)
    inputs = generator.standard_normal((512, 256), np.float32) @ generator.standard_normal((256, 256), np.float32)
    block = feedback(inputs.T @ inputs, size)

    def quantize() -> BlockwiseWeight:
        return quantize_with_feedback(
            lambda start, stop: weight[start:stop],
            rows,
            256,
            [block],
            bits=bits,
            block_size=size,
            zero_points=bits == 4,
        )

    first, second = quantize(), in_numpy(quantize)
    np.testing.assert_array_equal(first.packed, second.packed)
    np.testing.assert_array_equal(first.scales, second.scales)
