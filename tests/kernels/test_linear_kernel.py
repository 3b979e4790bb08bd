"""The linear layer in C, compared with its definition, MatMulNBits, and with exact arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.backend import kernels
from omni_edge.backend.graph import Graph
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_quant import dequantize_blockwise, quantize_blockwise
from omni_quant.policy import formats
from omni_quant.precision import Kind, Precision
from support.vocoders import prepared_kinds, snr

Array = NDArray[np.float32]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(weight: Array, bias: Array | None, precision: Precision, folder: Path) -> Path:
    g = GraphBuilder("layer", formats("thinker", precision))
    x = g.input("x", [1, "rows", weight.shape[1]])
    y = g.linear(x, LazyTensor.wrap(weight), "/layer", "layers", bias=None if bias is None else LazyTensor.wrap(bias))
    g.output(y, "y", [1, "rows", len(weight)])
    return g.save(folder).graph


def rounded(x: Array, block: int) -> NDArray[np.float64]:
    """Activations rounded to INT8, block by block."""
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, -x.shape[1] % block)]).reshape(len(x), -1, block)
    step = np.abs(padded).max(2, keepdims=True) / 127
    kept = np.rint(padded / np.where(step, step, 1)) * step
    return kept.reshape(len(x), -1)[:, : x.shape[1]]


# Rows of B that fill no panel, columns that fill no block, and a matrix as wide as a model's.
@pytest.mark.parametrize(("n", "k"), [(1, 32), (7, 96), (33, 197), (130, 640), (896, 896)])
@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.usefixtures("compiled")
def test_the_layer_is_exact_up_to_its_rounding(n: int, k: int, block: int, bits: int, tmp_path: Path) -> None:
    weight, bias = random(n, k), random(n, seed=1)
    quantized = quantize_blockwise(weight, bits=bits, block_size=block)
    stored = dequantize_blockwise(quantized).astype(np.float64)
    precision = Precision(Kind.INT4 if bits == 4 else Kind.INT8, block)
    for with_bias in (False, True):
        graph = Graph(layer(weight, bias if with_bias else None, precision, tmp_path), threads=2)
        assert graph.run({"x": np.empty((1, 0, k), np.float32)}, ["y"])[0].shape == (1, 0, n)
        # One row, the most that run row by row, the fewest in panels, several tiles of rows.
        for rows in (1, 3, 8, 9, 17, 70):
            x = random(rows, k, seed=rows) * 3
            x[1:2] = 0
            wanted = rounded(x, block) @ stored.T + (bias if with_bias else 0)
            (y,) = graph.run({"x": x[None]}, ["y"])
            np.testing.assert_allclose(y[0], wanted, atol=2e-5 * k**0.5, rtol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_the_layer_is_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = random(300, 512), random(40, 512, seed=2)
    path = layer(weight, None, Precision(Kind.INT4, 64), tmp_path)
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    supported = kinds == ["LinearNBits"]
    assert supported or kinds == ["MatMulNBits"]  # where the processor has no products of bytes
    assert kernels.read_in_place(path) == supported
    (ours,) = Graph(path).run({"x": x[None]}, ["y"])
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    assert not kernels.read_in_place(path)
    (standard,) = Graph(path).run({"x": x[None]}, ["y"])
    assert snr(standard, ours) > 60
    exact = x[None] @ weight.T
    assert abs(snr(exact, ours) - snr(exact, standard)) < 0.2


@pytest.mark.usefixtures("compiled")
def test_groups_that_are_too_small_are_left_to_onnxruntime(tmp_path: Path) -> None:
    weight, bias, x = random(40, 96), random(40, seed=1), random(5, 96, seed=2)
    path = layer(weight, bias, Precision(Kind.INT4, 16), tmp_path)
    assert not kernels.read_in_place(path)
    stored = dequantize_blockwise(quantize_blockwise(weight, bits=4, block_size=16))
    (y,) = Graph(path).run({"x": x[None]}, ["y"])
    np.testing.assert_allclose(y[0], rounded(x, 16) @ stored.T + bias, atol=1e-3)


@pytest.mark.usefixtures("compiled")
def test_not_a_number_stays_in_its_row(tmp_path: Path) -> None:
    graph = Graph(layer(random(40, 128), None, Precision(Kind.INT4, 32), tmp_path))
    x = random(12, 128)
    (clean,) = graph.run({"x": x[None]}, ["y"])
    x[4, 7] = np.nan
    (y,) = graph.run({"x": x[None]}, ["y"])
    np.testing.assert_array_equal(np.delete(y[0], 4, 0), np.delete(clean[0], 4, 0))
