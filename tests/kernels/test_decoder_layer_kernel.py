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
from omni_export.models.decoder_layer import MATRICES, LayerSizes, decoder_layer, matrix_inputs
from omni_quant import dequantize_blockwise
from omni_quant.precision import WeightFormat
from support.blockwise import FORMATS, in_groups, quantize, rounded
from support.vocoders import prepared_kinds, snr

Array = NDArray[np.float32]
Exact = NDArray[np.float64]
# Several heads for each key head, rows of matrices that fill no panel and no stream, a partial last block.
SMALL = LayerSizes(hidden=70, intermediate=90, heads=3, kv_heads=1, head_dim=16, scale=0.25, epsilon=1e-6)
# The Talker of the 3B, half as wide.
WIDE = LayerSizes(hidden=448, intermediate=1216, heads=8, kv_heads=2, head_dim=64, scale=0.125, epsilon=1e-6)


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


def layer(sizes: LayerSizes, format_: WeightFormat, folder: Path, dtype: str = "float32") -> Path:
    g = GraphBuilder("layer", {"layers": format_})
    stored = {name: LazyTensor.wrap(value) for name, value in weights(sizes).items()}
    x, normed = (g.input(name, [1, "S", None]) for name in ("x", "normed"))
    matrix = {name: g.matrix(stored[name], name, "layers") for name in MATRICES}
    for stored_as in matrix.values():
        stored_as.extend([""] * (matrix_inputs(format_) - len(stored_as)))
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
    function = decoder_layer(sizes, format_, dtype)
    outputs = g.call(function, inputs, "/layer", **sizes.attributes([format_] * 4))
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


def linear(x: Exact, weight: Array, format_: WeightFormat) -> Exact:
    """The product of activations rounded to INT8 with the stored weight."""
    stored = dequantize_blockwise(quantize(weight, format_)).astype(np.float64)
    y: Exact = rounded(x.astype(np.float32), format_.group_size) @ stored.T
    return y


def exact(sizes: LayerSizes, format_: WeightFormat, fed: dict[str, NDArray[Any]]) -> tuple[Exact, Exact, Exact, Exact]:
    """y, its norm, keys and values [kv_heads, total, head_dim] in float64."""
    w, width, total = weights(sizes), sizes.head_dim, int(fed["total"][0])
    x, normed = (fed[name][0].astype(np.float64) for name in ("x", "normed"))
    length = len(x)
    packed = (linear(normed, w["qkv"], format_) + w["bias"]).reshape(length, -1, width)
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

    h = x + linear(attended.reshape(length, -1), w["out"], format_)
    gate, up = np.split(linear(norm(h, w["middle"]), w["gate_up"], format_), 2, axis=1)
    y = h + linear(gate / (1 + np.exp(-gate)) * up, w["down"], format_)
    return y, norm(y, w["next"]), keys, values


# One position, the most rows that run row by row, the fewest in panels, several tiles; no past, one and several spans;
# fewer threads than cores, and more.
@pytest.mark.parametrize(("length", "past"), [(1, 0), (1, 70), (1, 1500), (8, 5), (9, 5), (130, 600)])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("sizes", "block"), [(SMALL, 32), (SMALL, 64), (WIDE, 128)])
@pytest.mark.usefixtures("compiled")
def test_the_layer_is_exact_up_to_its_rounding(
    sizes: LayerSizes, block: int, name: str, length: int, past: int, tmp_path: Path
) -> None:
    format_ = in_groups(name, block)
    path, fed = layer(sizes, format_, tmp_path), feeds(sizes, length, past)
    y, y_normed, keys, values = exact(sizes, format_, fed)
    for threads in (1, 3):
        got = Graph(path, threads=threads).run(fed, ["y", "y_normed", "keys", "values"])
        for wanted, computed in zip((y, y_normed), got[:2], strict=True):
            assert snr(wanted.astype(np.float32), computed[0]) > 55
        for wanted, cache in zip((keys, values), got[2:], strict=True):
            np.testing.assert_allclose(cache[0, :, : past + length], wanted, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("compiled")
def test_the_layer_is_its_definition(
    name: str, dtype: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format_ = in_groups(name, 64)
    path, fed = layer(WIDE, format_, tmp_path, dtype), feeds(WIDE, length, 300, dtype)
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    ours_alone = "DecoderLayer" + "F16" * format_.float16_scales + "Int8" * (dtype == "int8")
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
    format_ = in_groups("int4", 32)
    graph, fed = Graph(layer(SMALL, format_, tmp_path), threads=2), feeds(SMALL, 3, 70)
    y, _, keys, values = exact(SMALL, format_, fed)
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
    graph, fed = Graph(layer(SMALL, in_groups("int4", 32), tmp_path), threads=2), feeds(SMALL, 12, 4)
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
    graph, fed = Graph(layer(SMALL, in_groups("int4", 32), tmp_path)), feeds(SMALL, 3, 70)
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run(fed | {name: value}, ["y"])


@pytest.mark.usefixtures("compiled")
def test_a_norm_of_another_length_is_refused(tmp_path: Path) -> None:
    path, fed = layer(SMALL, in_groups("int4", 32), tmp_path), feeds(SMALL, 3, 70)
    if prepared_kinds(path, tmp_path / "prepared.onnx") != ["DecoderLayerF16"]:
        pytest.skip("needs dot products of bytes")
    with pytest.raises(Exception, match="decoder layer's inputs do not fit"):
        Graph(path).run(fed | {"normed": fed["normed"][:, :2]}, ["y"])
