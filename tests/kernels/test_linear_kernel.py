"""The linear layer in C, compared with its definition, MatMulNBits, and with exact arithmetic."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.backend import kernels
from omni_edge.backend.graph import Graph
from omni_edge.backend.machine import usable_cores
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_quant import dequantize_blockwise
from omni_quant.precision import WeightFormat
from support.blockwise import FORMATS, in_groups, quantize, rounded
from support.vocoders import prepared_kinds, snr

Array = NDArray[np.float32]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(weight: Array, bias: Array | None, weights: WeightFormat, folder: Path) -> Path:
    g = GraphBuilder("layer", {"layers": weights})
    x = g.input("x", [1, "rows", weight.shape[1]])
    y = g.linear(x, LazyTensor.wrap(weight), "/layer", "layers", bias=None if bias is None else LazyTensor.wrap(bias))
    g.output(y, "y", [1, "rows", len(weight)])
    return g.save(folder).graph


def compiled_layer(weight: Array, bias: Array | None, weights: WeightFormat, folder: Path, threads: int = 1) -> Graph:
    """The layer by our operator; skips where the instruction set has no products of bytes."""
    path = layer(weight, bias, weights, folder)
    if not kernels.read_in_place(path):
        pytest.skip("needs products of bytes; MatMulNBits of onnxruntime stands in for the operator")
    return Graph(path, threads=threads)


# Rows of B that fill no panel, columns that fill no block, odd numbers of blocks, and a matrix as wide as a model's.
@pytest.mark.parametrize(("n", "k"), [(1, 32), (7, 96), (33, 197), (130, 640), (37, 1120), (896, 896)])
@pytest.mark.parametrize("block", [32, 64, 128, 256])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("compiled")
def test_the_layer_is_exact_up_to_its_rounding(n: int, k: int, block: int, name: str, tmp_path: Path) -> None:
    # Groups that do not lie around zero have zero points at both ends of the range.
    weight, bias = random(n, k) + random(n, 1, seed=3), random(n, seed=1)
    weights = in_groups(name, block)
    stored = dequantize_blockwise(quantize(weight, weights)).astype(np.float64)
    for with_bias in (False, True):
        graph = compiled_layer(weight, bias if with_bias else None, weights, tmp_path, threads=2)
        assert graph.run({"x": np.empty((1, 0, k), np.float32)}, ["y"])[0].shape == (1, 0, n)
        # One row, the most that run row by row, the fewest in panels, several tiles of rows.
        for rows in (1, 3, 8, 9, 17, 70):
            x = random(rows, k, seed=rows) * 3 + 1
            x[1:2] = 0
            kept, added = rounded(x, block), bias if with_bias else np.zeros_like(bias)
            (y,) = graph.run({"x": x[None]}, ["y"])
            error = np.abs(y[0] - (kept @ stored.T + added))
            assert (error <= 5e-7 * (np.abs(kept) @ np.abs(stored).T + np.abs(added))).all()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("compiled")
def test_the_layer_is_its_definition(
    name: str, with_bias: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, bias, x = random(300, 448) + 0.5, random(300, seed=1) * with_bias, random(40, 448, seed=2)
    weights = in_groups(name, 64)
    path = layer(weight, bias if with_bias else None, weights, tmp_path)
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    old_name = "LinearNBitsBias" if with_bias else "LinearNBits"
    supported = kinds == ["LinearNBitsF16" if weights.float16_scales else old_name]
    assert supported or kinds == ["MatMulNBits"]  # where the processor has no products of bytes
    assert kernels.read_in_place(path) == supported
    (ours,) = Graph(path).run({"x": x[None]}, ["y"])
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    assert not kernels.read_in_place(path)
    (standard,) = Graph(path).run({"x": x[None]}, ["y"])
    assert snr(standard, ours) > 60
    exact = x[None] @ weight.T + bias
    assert abs(snr(exact, ours) - snr(exact, standard)) < 0.2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("compiled")
def test_groups_that_are_too_small_are_left_to_onnxruntime(name: str, tmp_path: Path) -> None:
    weight, bias, x = random(40, 96), random(40, seed=1), random(5, 96, seed=2)
    weights = in_groups(name, 16)
    path = layer(weight, bias, weights, tmp_path)
    assert not kernels.read_in_place(path)
    stored = dequantize_blockwise(quantize(weight, weights))
    (y,) = Graph(path).run({"x": x[None]}, ["y"])
    np.testing.assert_allclose(y[0], rounded(x, 16) @ stored.T + bias, atol=1e-3)


@pytest.mark.usefixtures("compiled")
def test_results_stay_the_same_beside_busy_programs(tmp_path: Path) -> None:
    """Threads are displaced at any moment, and the number of those that take part changes."""
    graph = compiled_layer(random(896, 896), None, in_groups("int4", 32), tmp_path, threads=3)
    x = random(1, 1, 896)
    (wanted,) = graph.run({"x": x}, ["y"])
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * usable_cores())]
    try:
        ends = time.monotonic() + 0.7
        while time.monotonic() < ends:
            np.testing.assert_array_equal(graph.run({"x": x}, ["y"])[0], wanted)
    finally:
        for program in busy:
            program.kill()
            program.wait()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rows", [6, 12])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("compiled")
def test_what_is_not_finite_stays_in_its_row(name: str, rows: int, value: float, tmp_path: Path) -> None:
    graph = compiled_layer(random(40, 160), None, in_groups(name, 32), tmp_path)
    x = random(rows, 160)
    (clean,) = graph.run({"x": x[None]}, ["y"])
    x[4, 7] = value
    (y,) = graph.run({"x": x[None]}, ["y"])
    np.testing.assert_array_equal(np.delete(y[0], 4, 0), np.delete(clean[0], 4, 0))
    assert not np.isfinite(y[0, 4]).any()
