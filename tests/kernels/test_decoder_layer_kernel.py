"""A decoder layer as one operator in C, compared with exact arithmetic and with its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.models.decoder_layer import LayerSizes, decoder_layer
from omni_quant import dequantize_blockwise, quantize_blockwise
from omni_quant.policy import formats
from omni_quant.precision import Kind, Precision
from support.vocoders import prepared_kinds, snr

Array = NDArray[np.float32]
Exact = NDArray[np.float64]
# Several heads for each key head, rows of matrices that fill no panel and no stream, a partial last block.
SMALL = LayerSizes(hidden=70, intermediate=90, heads=3, kv_heads=1, head_dim=16, scale=0.25, epsilon=1e-6)
# The Talker of the 3B, half as wide.
WIDE = LayerSizes(hidden=448, intermediate=1216, heads=8, kv_heads=2, head_dim=64, scale=0.125, epsilon=1e-6)
MATRICES = ("qkv", "out", "gate_up", "down")


def weights(sizes: LayerSizes) -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = {name: getattr(sizes, name) for name in MATRICES}
    made = {name: random.standard_normal(shape) / shape[1] ** 0.5 for name, shape in shapes.items()}
    made["bias"] = random.standard_normal(sizes.qkv[0])
    made["middle"], made["next"] = (random.uniform(0.5, 2, sizes.hidden) for _ in range(2))
    return {name: value.astype(np.float32) for name, value in made.items()}


def steps(sizes: LayerSizes) -> list[Array]:
    random = np.random.default_rng(1)
    return [random.uniform(0.02, 0.05, sizes.kv_heads * sizes.head_dim).astype(np.float32) for _ in range(2)]


def layer(sizes: LayerSizes, precision: Precision, folder: Path, dtype: str = "float32") -> Path:
    parts = formats("thinker", precision)
    g = GraphBuilder("layer", parts)
    stored = {name: LazyTensor.wrap(value) for name, value in weights(sizes).items()}
    x, normed = (g.input(name, [1, "S", None]) for name in ("x", "normed"))
    matrix = {name: g.matrix(stored[name], name, "layers") for name in MATRICES}
    vector = {name: g.weight(stored[name], name) for name in ("bias", "middle", "next")}
    shape = [1, sizes.kv_heads, "capacity", sizes.head_dim]
    inputs = [
        *(x, normed, *matrix["qkv"], vector["bias"], *matrix["out"]),
        *(vector["middle"], *matrix["gate_up"], *matrix["down"], vector["next"]),
        *(g.input(name, shape, dtype) for name in ("key", "value")),
        *(g.input(name, [1], "int32") for name in ("last_slot", "total")),
        *(g.input(name, ["capacity", sizes.head_dim // 2]) for name in ("cos", "sin")),
    ]
    if dtype == "int8":
        inputs += [g.const(step, f"step{index}", inline=True) for index, step in enumerate(steps(sizes))]
    function = decoder_layer(sizes, parts["layers"], dtype)
    outputs = g.call(function, inputs, "/layer", **sizes.attributes(parts["layers"]))
    for name, value in zip(("y", "y_normed"), outputs[:2], strict=True):
        g.output(value, name, [1, "S", sizes.hidden])
    for name, value in zip(("keys", "values"), outputs[2:], strict=True):
        g.output(value, name, shape, dtype)
    return g.save(folder).graph


def feeds(sizes: LayerSizes, length: int, past: int, dtype: str = "float32") -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(length + past)
    capacity = past + length + 3
    angles = random.uniform(0, 6, (capacity, sizes.head_dim // 2))
    x = random.standard_normal((1, length, sizes.hidden)) * 2
    fed: dict[str, NDArray[Any]] = {
        "x": x.astype(np.float32),
        "normed": (x * random.uniform(0.2, 1, sizes.hidden)).astype(np.float32),
        "last_slot": np.array([past + length - 1], np.int32),
        "total": np.array([past + length], np.int32),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }
    for name in ("key", "value"):
        shape = (1, sizes.kv_heads, capacity, sizes.head_dim)
        if dtype == "int8":
            fed[name] = random.integers(-128, 128, shape, np.int8)
        else:
            fed[name] = random.standard_normal(shape).astype(np.float32)
            fed[name][:, :, past:] = np.nan  # an unwritten slot must not be read
    return fed


def linear(x: Exact, weight: Array, precision: Precision) -> Exact:
    """The product of activations rounded to INT8 with the stored weight."""
    block = precision.group_size
    stored = dequantize_blockwise(quantize_blockwise(weight, bits=precision.kind.bits, block_size=block))
    padded = np.pad(x, [(0, 0), (0, -x.shape[1] % block)]).reshape(len(x), -1, block)
    step = np.abs(padded).max(2, keepdims=True) / 127
    kept = np.rint(padded / np.where(step, step, 1)) * step
    y: Exact = kept.reshape(len(x), -1)[:, : x.shape[1]] @ stored.T.astype(np.float64)
    return y


def exact(sizes: LayerSizes, precision: Precision, fed: dict[str, NDArray[Any]]) -> tuple[Exact, Exact, Exact, Exact]:
    """y, its norm, keys and values [kv_heads, total, head_dim] in float64."""
    w, width, total = weights(sizes), sizes.head_dim, int(fed["total"][0])
    x, normed = (fed[name][0].astype(np.float64) for name in ("x", "normed"))
    length = len(x)
    packed = (linear(normed, w["qkv"], precision) + w["bias"]).reshape(length, -1, width)
    cos, sin = (fed[name][total - length : total, None].astype(np.float64) for name in ("cos", "sin"))
    first, second = np.split(packed[:, : sizes.heads + sizes.kv_heads], 2, axis=2)
    rotated = np.concatenate([first * cos - second * sin, second * cos + first * sin], 2)
    keys, values = (fed[name][0, :, :total].astype(np.float64) for name in ("key", "value"))
    keys[:, total - length :] = rotated[:, sizes.heads :].transpose(1, 0, 2)
    values[:, total - length :] = packed[:, sizes.heads + sizes.kv_heads :].transpose(1, 0, 2)
    seen = np.arange(total) <= total - length + np.arange(length)[:, None]
    attended = np.empty((length, sizes.heads, width))
    for head in range(sizes.heads):
        shared = head * sizes.kv_heads // sizes.heads
        scores = np.where(seen, sizes.scale * rotated[:, head] @ keys[shared].T, -np.inf)
        probabilities = np.exp(scores - scores.max(1, keepdims=True))
        attended[:, head] = probabilities / probabilities.sum(1, keepdims=True) @ values[shared]

    def norm(x: Exact, weight: Array) -> Exact:
        normed: Exact = x / np.sqrt((x**2).mean(1, keepdims=True) + sizes.epsilon) * weight
        return normed

    h = x + linear(attended.reshape(length, -1), w["out"], precision)
    gate, up = np.split(linear(norm(h, w["middle"]), w["gate_up"], precision), 2, axis=1)
    y = h + linear(gate / (1 + np.exp(-gate)) * up, w["down"], precision)
    return y, norm(y, w["next"]), keys, values


# One position, the most rows that run row by row, the fewest in panels, several tiles; no past, one and several spans;
# fewer threads than cores, and more.
@pytest.mark.parametrize(("length", "past"), [(1, 0), (1, 70), (1, 1500), (8, 5), (9, 5), (130, 600)])
@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize(("sizes", "block"), [(SMALL, 32), (SMALL, 64), (WIDE, 128)])
@pytest.mark.usefixtures("compiled")
def test_the_layer_is_exact_up_to_its_rounding(
    sizes: LayerSizes, block: int, kind: Any, length: int, past: int, tmp_path: Path
) -> None:
    precision = Precision(Kind(kind), block)
    path, fed = layer(sizes, precision, tmp_path), feeds(sizes, length, past)
    y, y_normed, keys, values = exact(sizes, precision, fed)
    for threads in (1, 3):
        got = Graph(path, threads=threads).run(fed, ["y", "y_normed", "keys", "values"])
        # A value half way between two codes may be rounded to either.
        assert snr(y.astype(np.float32), got[0][0]) > 55
        assert snr(y_normed.astype(np.float32), got[1][0]) > 55
        for wanted, cache in zip((keys, values), got[2:], strict=True):
            np.testing.assert_allclose(cache[0, :, : past + length], wanted, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.usefixtures("compiled")
def test_the_layer_is_its_definition(dtype: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fed = layer(WIDE, Precision(Kind.INT4, 64), tmp_path, dtype), feeds(WIDE, length, 300, dtype)
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    ours_alone = "DecoderLayerInt8" if dtype == "int8" else "DecoderLayer"
    assert kinds == [ours_alone] or "MatMulNBits" in kinds  # where the processor has no products of bytes
    ours = Graph(path).run(fed, ["y", "y_normed", "keys", "values"])
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    theirs = Graph(path).run(fed, ["y", "y_normed", "keys", "values"])
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert snr(other, mine) > 45
    for mine, other in zip(ours[2:], theirs[2:], strict=True):
        atol = 1 if dtype == "int8" else 2e-2
        np.testing.assert_allclose(
            mine[:, :, : 300 + length].astype(np.float32), other[:, :, : 300 + length].astype(np.float32), atol=atol
        )


@pytest.mark.usefixtures("compiled")
def test_a_bound_cache_is_appended_to_in_place(tmp_path: Path) -> None:
    precision = Precision(Kind.INT4, 32)
    graph, fed = Graph(layer(SMALL, precision, tmp_path), threads=2), feeds(SMALL, 3, 70)
    y, _, keys, values = exact(SMALL, precision, fed)
    got = {name: np.empty((1, 3, SMALL.hidden), np.float32) for name in ("y", "y_normed")}
    binding = graph.binding()
    for name, array in fed.items():
        binding.input(name, array)
    for name, array in {**got, "keys": fed["key"], "values": fed["value"]}.items():
        binding.output(name, array)
    binding.run()
    assert snr(y.astype(np.float32), got["y"][0]) > 55
    np.testing.assert_allclose(fed["key"][0, :, :73], keys, atol=1e-4)
    np.testing.assert_allclose(fed["value"][0, :, :73], values, atol=1e-4)
    assert np.isnan(fed["key"][0, :, 73:]).all()


@pytest.mark.usefixtures("compiled")
def test_not_a_number_stays_in_its_position(tmp_path: Path) -> None:
    graph, fed = Graph(layer(SMALL, Precision(Kind.INT4, 32), tmp_path), threads=2), feeds(SMALL, 12, 4)
    (clean,) = graph.run(fed, ["y"])
    fed["x"][0, 7, 3] = np.nan
    (y,) = graph.run(fed, ["y"])
    np.testing.assert_array_equal(np.delete(y[0], 7, 0), np.delete(clean[0], 7, 0))
    assert np.isnan(y[0, 7, 3])


@pytest.mark.parametrize(
    ("name", "value"), [("total", np.array([101], np.int32)), ("last_slot", np.array([3], np.int32))]
)
@pytest.mark.usefixtures("compiled")
def test_a_cache_that_does_not_fit_is_refused(name: str, value: NDArray[np.int32], tmp_path: Path) -> None:
    graph, fed = Graph(layer(SMALL, Precision(Kind.INT4, 32), tmp_path)), feeds(SMALL, 3, 70)
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run(fed | {name: value}, ["y"])


@pytest.mark.usefixtures("compiled")
def test_a_norm_of_another_length_is_refused(tmp_path: Path) -> None:
    path, fed = layer(SMALL, Precision(Kind.INT4, 32), tmp_path), feeds(SMALL, 3, 70)
    if prepared_kinds(path, tmp_path / "prepared.onnx") != ["DecoderLayer"]:
        pytest.skip("needs dot products of bytes")
    with pytest.raises(Exception, match="decoder layer's inputs do not fit"):
        Graph(path).run(fed | {"normed": fed["normed"][:, :2]}, ["y"])
