"""Packed weights stand for what was quantized, and the kernels read them as they were packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_edge.backend.graph import Graph
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.graph.rounding import round_blockwise
from omni_quant import (
    Groups,
    blockwise_weight,
    dequantize_blockwise,
    quantize_blockwise,
    quantize_blockwise_rows,
    quantize_channelwise,
)
from omni_quant.policy import formats
from omni_quant.precision import Activations, Kind, Precision, Scales, WeightFormat


def random(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 200))
block_sizes = st.sampled_from([16, 32, 64])


@settings(max_examples=60, deadline=None)
@given(shapes, block_sizes, st.integers(0, 9))
def test_rounding_is_the_only_error_of_int8(shape: tuple[int, int], block: int, seed: int) -> None:
    weight = random(*shape, seed)
    quantized = quantize_blockwise(weight, bits=8, block_size=block)
    restored = dequantize_blockwise(quantized)
    assert restored.shape == weight.shape
    assert quantized.packed.shape == (shape[0], -(-shape[1] // block), block)
    scales = np.abs(np.repeat(quantized.scales, block, axis=1)[:, : shape[1]])
    # Half a step; a whole one at the end of the range opposite to the extreme value, which has one code less.
    beyond = np.abs(weight) > scales * 127
    assert (np.abs(restored - weight) <= scales * np.where(beyond, 1.0, 0.5) * (1 + 1e-3)).all()


def test_the_extreme_value_of_a_block_is_exact_in_int8() -> None:
    weight = random(5, 64)
    restored = dequantize_blockwise(quantize_blockwise(weight, bits=8, block_size=32))
    for row, original in zip(restored.reshape(-1, 32), weight.reshape(-1, 32), strict=True):
        extreme = np.abs(original).argmax()
        assert row[extreme] == pytest.approx(original[extreme], rel=1e-6)


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros((3, 40), np.float32)
    assert not dequantize_blockwise(quantize_blockwise(zeros, bits=4, block_size=32)).any()
    assert not quantize_channelwise(zeros).codes.any()


def test_reading_in_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(50, 96)
    asked = {"bits": 4, "block_size": 32, "float16_scales": True, "zero_points": True}
    whole = quantize_blockwise(weight, **asked)
    monkeypatch.setattr("omni_quant.blockwise._READ_VALUES", 700)
    monkeypatch.setattr("omni_quant.blockwise._CHUNK_VALUES", 300)
    calls = []

    def read(start: int, stop: int) -> np.ndarray:
        calls.append((start, stop))
        return weight[start:stop]

    pieces = quantize_blockwise_rows(read, 50, 96, **asked)
    assert len(calls) == 8
    threaded = quantize_blockwise_rows(read, 50, 96, **asked, threads=3)
    assert sorted(calls[8:]) == calls[:8]
    for other in (pieces, threaded):
        np.testing.assert_array_equal(other.packed, whole.packed)
        np.testing.assert_array_equal(other.scales, whole.scales)
        np.testing.assert_array_equal(other.zero_points, whole.zero_points)


def test_channelwise_scales_each_output() -> None:
    weight = random(6, 33) * np.arange(1, 7, dtype=np.float32)[:, None]
    quantized = quantize_channelwise(weight)
    restored = quantized.codes * quantized.scales[:, None]
    assert (np.abs(restored - weight) <= quantized.scales[:, None] * 0.5001).all()
    assert (np.abs(quantized.codes).max(1) == 127).all()


@pytest.mark.parametrize(
    ("kind", "block"), [(Kind.INT4, 16), (Kind.INT4, 32), (Kind.INT4, 128), (Kind.INT8, 32), (Kind.INT8, 64)]
)
@pytest.mark.parametrize("columns", [64, 84, 200])
def test_the_kernel_computes_with_what_was_packed(tmp_path: Path, kind: Kind, block: int, columns: int) -> None:
    weight, bias = random(24, columns), random(1, 24, 1)[0]
    parts = formats("thinker", Precision(kind, block))
    builder = GraphBuilder("product", parts)
    x = builder.input("x", ["n", columns])
    y = builder.linear(x, LazyTensor.wrap(weight), "/product", "layers", bias=LazyTensor.wrap(bias))
    builder.output(y, "y", ["n", 24])
    values = random(5, columns, 2)
    actual = Graph(builder.save(tmp_path).graph).run({"x": values})[0]
    packed = round_blockwise(LazyTensor.wrap(weight), parts["layers"])
    expected = values @ dequantize_blockwise(packed).T + bias
    # The kernel quantizes its activations to INT8 as well.
    assert np.abs(actual - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(("kind", "columns"), [(Kind.INT8, 40), (Kind.INT4, 64), (Kind.INT4, 44)])
def test_the_gather_kernel_reads_what_was_packed(tmp_path: Path, kind: Kind, columns: int) -> None:
    table = random(30, columns)
    builder = GraphBuilder("table", {"table": WeightFormat(kind, Scales.GROUP, Activations.NONE, 16)})
    ids = builder.input("ids", ["n"], "int64")
    builder.output(builder.embedding(ids, LazyTensor.wrap(table), "/table", "table"), "rows", ["n", columns])
    chosen = np.array([3, 0, 29, 3])
    actual = Graph(builder.save(tmp_path).graph).run({"ids": chosen})[0]
    packed = quantize_blockwise(table, bits=kind.bits, block_size=16)
    np.testing.assert_allclose(actual, dequantize_blockwise(packed)[chosen], rtol=1e-6)


@pytest.mark.parametrize("columns", [64, 84, 200, 416])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_float16_scales_and_zero_points_are_what_onnxruntime_multiplies_by(
    tmp_path: Path, bits: int, columns: int, bias: bool
) -> None:
    kind = Kind.INT4 if bits == 4 else Kind.INT8
    weights = WeightFormat(
        kind, Scales.GROUP, Activations.FLOAT32, 32, float16_scales=True, zero_points=kind is Kind.INT4
    )
    weight, offset = random(24, columns) + 0.7, random(1, 24, 1)[0]
    builder = GraphBuilder("product", {"part": weights})
    x = builder.input("x", ["n", columns])
    given_bias = LazyTensor.wrap(offset) if bias else None
    builder.output(builder.linear(x, LazyTensor.wrap(weight), "/product", "part", bias=given_bias), "y", ["n", 24])
    rows = Graph(builder.save(tmp_path).graph).run({"x": np.eye(columns, dtype=np.float32)})[0]
    packed = round_blockwise(LazyTensor.wrap(weight), weights)
    assert packed.scales.dtype == np.float16
    assert (packed.zero_points is None) == (kind is Kind.INT8)
    np.testing.assert_allclose(rows.T - offset[:, None] * bias, dequantize_blockwise(packed), atol=1e-6)


def test_codes_and_zero_points_of_even_places_are_in_the_low_nibble() -> None:
    codes = np.array([[[1, 2], [3, 4], [5, 15]]], np.uint8)
    groups = Groups(codes, np.array([[1, 0.5, 2]], np.float16), np.array([[7, 9, 4]], np.uint8))
    packed = blockwise_weight(groups, 5, 4)
    np.testing.assert_array_equal(packed.packed, [[[0x21], [0x43], [0xF5]]])
    np.testing.assert_array_equal(packed.zero_points, [[0x97, 0x04]])
    np.testing.assert_array_equal(dequantize_blockwise(packed), [[-6, -5, -3, -2.5, 2]])


def test_a_table_with_float16_scales_gives_its_rows_in_float32(tmp_path: Path) -> None:
    table = random(30, 72)
    weights = WeightFormat(Kind.INT8, Scales.GROUP, Activations.NONE, 32, float16_scales=True)
    builder = GraphBuilder("table", {"table": weights})
    ids = builder.input("ids", ["n"], "int64")
    builder.output(builder.embedding(ids, LazyTensor.wrap(table), "/table", "table"), "rows", ["n", 72])
    chosen = np.array([3, 0, 29, 3])
    actual = Graph(builder.save(tmp_path).graph).run({"ids": chosen})[0]
    assert actual.dtype == np.float32
    expected = dequantize_blockwise(round_blockwise(LazyTensor.wrap(table), weights))[chosen]
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e7])
def test_weights_that_float16_scales_cannot_hold_are_refused_by_name(value: float) -> None:
    weight = random(4, 64)
    weight[2, 40] = value
    for kind in (Kind.INT4, Kind.INT8):
        weights = WeightFormat(
            kind, Scales.GROUP, Activations.FLOAT32, 32, float16_scales=True, zero_points=kind is Kind.INT4
        )
        with pytest.raises(CheckpointError, match=r"layers\.0\.q_proj has weights that are not finite, or too large"):
            round_blockwise(LazyTensor.wrap(weight, "layers.0.q_proj"), weights)
