"""The DiT's operators in C, compared with exact arithmetic and their definitions, alone and together in the DiT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.graph.builder import GraphBuilder
from omni_export.models.token2wav import dit
from omni_export.models.token2wav.dit_operators import block_attention, gated_norm, gelu_tanh, window_attention
from omni_quant.precision import Precision
from support.vocoders import prepared_kinds, snr

Array = NDArray[np.float32]
Exact = NDArray[np.float64]
EPSILON = 1e-6
OPERATORS = {"BlockAttention", "WindowAttention", "GatedNorm", "GeluTanh"}


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- attention -----------------------------------------------------------------------------------------------------


def attention(heads: int, width: int, place: int | None, folder: Path) -> Path:
    """A graph of one attention: to the block itself, or to a window that begins `place` frames before it."""
    g = GraphBuilder("attention")
    size = heads * width
    parts = [("qkv", 3 * size)] if place is None else [("query", size), ("keys", size), ("values", size)]
    inputs = [g.input(name, ["blocks", None, values]) for name, values in parts]
    inputs += [g.const([place])] if place is not None else []
    inputs += [g.input(name, ["positions", width // 2]) for name in ("cos", "sin")]
    inputs.append(g.input("bias", ["blocks", 1, None, None]))
    function = block_attention() if place is None else window_attention()
    (y,) = g.call(function, inputs, "/attention", num_heads=heads, rotary_embedding_dim=width)
    g.output(y, "y", ["blocks", "frames", size])
    return g.save(folder).graph


def attended(fed: dict[str, Array], heads: int, place: int) -> Exact:
    """The same in float64. Only the first head is rotated, its values by pairs."""
    if "qkv" in fed:
        query, keys, values = np.split(fed["qkv"].astype(np.float64), 3, axis=-1)
    else:
        query, keys, values = (fed[name].astype(np.float64) for name in ("query", "keys", "values"))
    result = []
    for head in range(heads):
        q, k, v = (np.split(x, heads, axis=-1)[head] for x in (query, keys, values))
        if head == 0:
            q, k = rotated(q, fed, place), rotated(k, fed, 0)
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]) + fed["bias"][:, 0]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        result.append(weights / weights.sum(-1, keepdims=True) @ v)
    return np.concatenate(result, axis=-1)


def rotated(x: Exact, fed: dict[str, Array], place: int) -> Exact:
    cos, sin = (fed[name][place : place + x.shape[1]].astype(np.float64) for name in ("cos", "sin"))
    even, odd = x[..., ::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, odd * cos + even * sin], -1).reshape(x.shape)


def feeds(blocks: int, frames: int, window: int | None, heads: int, width: int) -> dict[str, Array]:
    size, seen = heads * width, window or frames
    angles = np.random.default_rng(1).uniform(0, 6, (3 * frames, width // 2))
    bias = random(blocks, 1, frames, seen, seed=2)
    bias[0, ..., -1] = -1e9
    bias[-1, ..., 1:] = -1e9
    fed = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32), "bias": bias}
    if window is None:
        return fed | {"qkv": random(blocks, frames, 3 * size)}
    return fed | {
        "query": random(blocks, frames, size),
        "keys": random(blocks, window, size, seed=3),
        "values": random(blocks, window, size, seed=4),
    }


# Heads that fill no vector, the published ones; a frame, blocks that fill no vector, the published ones.
@pytest.mark.parametrize(("heads", "width"), [(1, 2), (3, 10), (2, 64)])
@pytest.mark.parametrize("frames", [1, 7, 24])
@pytest.mark.parametrize("window", [None, 2, 3])
@pytest.mark.usefixtures("compiled")
def test_attention_is_exact(heads: int, width: int, frames: int, window: int | None, tmp_path: Path) -> None:
    place = None if window is None else (window - 1) // 2 * frames
    graph = Graph(attention(heads, width, place, tmp_path), threads=2)
    fed = feeds(3, frames, window and window * frames, heads, width)
    (y,) = graph.run(fed, ["y"])
    np.testing.assert_allclose(y, attended(fed, heads, place or 0), atol=3e-6)


@pytest.mark.parametrize("place", [None, 7])
@pytest.mark.usefixtures("compiled")
def test_attention_is_its_definition(place: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = attention(3, 10, place, tmp_path)
    fed = feeds(2, 7, None if place is None else 21, 3, 10)
    (ours,) = Graph(path).run(fed, ["y"])
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    (standard,) = Graph(path).run(fed, ["y"])
    np.testing.assert_allclose(ours, standard, atol=2e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"bias": random(2, 1, 7, 6)}, {"cos": random(6, 5)}, {"sin": random(21, 4)}, {"qkv": random(2, 7, 91)}],
    ids=lambda wrong: next(iter(wrong)),
)
@pytest.mark.usefixtures("compiled")
def test_an_attention_that_does_not_fit_is_refused(wrong: dict[str, Array], tmp_path: Path) -> None:
    graph = Graph(attention(3, 10, None, tmp_path))
    with pytest.raises(Exception, match=r"inputs do not fit|Got invalid dimensions"):
        graph.run(feeds(2, 7, None, 3, 10) | wrong, ["y"])


# -- between the linear layers ---------------------------------------------------------------------------------------


def between(kind: str, size: int, folder: Path) -> Path:
    g = GraphBuilder(kind)
    shape = ["blocks", "frames", size]
    x = g.input("x", shape)
    if kind == "GeluTanh":
        g.output(g.call(gelu_tanh(), [x], "/gelu")[0], "normed", shape)
        return g.save(folder).graph
    rows = [g.input(name, [1, size]) for name in ("gate", "scale", "shift")]
    total, normed = g.call(gated_norm(), [x, g.input("delta", shape), *rows], "/norm", epsilon=EPSILON)
    g.output(total, "sum", shape)
    g.output(normed, "normed", shape)
    return g.save(folder).graph


# Less than a vector, several vectors and a remainder, the published size.
@pytest.mark.parametrize("size", [1, 3, 70, 1024])
@pytest.mark.usefixtures("compiled")
def test_the_gated_norm_is_exact(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = between("GatedNorm", size, tmp_path)
    fed = {name: random(2, 5, size, seed=index) + 3 for index, name in enumerate(("x", "delta"))}
    fed |= {name: random(1, size, seed=index) for index, name in enumerate(("gate", "scale", "shift"), 2)}
    total, normed = Graph(path, threads=2).run(fed, ["sum", "normed"])
    wanted = fed["x"] + fed["gate"].astype(np.float64) * fed["delta"]
    centred = wanted - wanted.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(total, wanted, atol=2e-6)
    np.testing.assert_allclose(
        normed, centred / deviation * fed["scale"] + fed["shift"], atol=2e-5 + (size == 1) * 2e-3
    )
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    for ours, standard in zip((total, normed), Graph(path).run(fed, ["sum", "normed"]), strict=True):
        np.testing.assert_allclose(ours, standard, atol=2e-5 + (size == 1) * 2e-3)


@pytest.mark.parametrize("size", [1, 5, 64, 5000])
@pytest.mark.usefixtures("compiled")
def test_gelu_is_exact(size: int, tmp_path: Path) -> None:
    x = np.concatenate([random(size) * 3, [0, -0.0, 30, -30, 1e4, -1e4, 3e38, -3e38]]).astype(np.float32)
    (y,) = Graph(between("GeluTanh", x.size, tmp_path), threads=2).run({"x": x[None, None]}, ["normed"])
    wide = x.astype(np.float64)
    wanted = wide / (1 + np.exp(np.minimum(-2 * math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3), 700)))
    np.testing.assert_allclose(y[0, 0], wanted, rtol=2e-6, atol=1e-6)


@pytest.mark.usefixtures("compiled")
def test_not_a_number_stays_in_its_row(tmp_path: Path) -> None:
    fed = {name: random(1, 6, 40, seed=index) for index, name in enumerate(("x", "delta"))}
    fed |= {name: random(1, 40, seed=index) for index, name in enumerate(("gate", "scale", "shift"), 2)}
    graph = Graph(between("GatedNorm", 40, tmp_path))
    (clean,) = graph.run(fed, ["normed"])
    fed["delta"][0, 2, 7] = np.nan
    (y,) = graph.run(fed, ["normed"])
    assert np.isnan(y[0, 2]).all()
    np.testing.assert_array_equal(np.delete(y[0], 2, 0), np.delete(clean[0], 2, 0))


# -- the DiT -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("compiled")
def test_the_dit_by_our_operators(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32, a run that holds a block back, and one that continues with it; the graph contains our operators."""
    source = Checkpoint(checkpoint)
    config = OmniConfig.parse(source.config).dit
    assert config is not None
    path = dit.build(source.scope(dit.PREFIX), config, Precision()).save(tmp_path).graph
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    assert set(kinds) >= OPERATORS
    assert not set(kinds) & {"MultiHeadAttention", "Gelu", "RotaryEmbedding"}
    graphs = [Graph(path), Graph(tmp_path / "prepared.onnx")]
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    graphs.append(Graph(path))
    *ours, standard = (two_runs(graph, config.block_size, config.repeats) for graph in graphs)
    for velocities in ours:
        for one, wanted in zip(velocities, standard, strict=True):
            assert snr(wanted, one) > 100


def two_runs(graph: Graph, block: int, repeats: int) -> list[Array]:
    """Velocities of a first run of three blocks, the last one held back, and of a second one of two."""
    fed: dict[str, NDArray[Any]] = {}
    for index, (name, spec) in enumerate(graph.inputs.items()):
        shape = [2 if size is None else size for size in spec.shape]
        if spec.dtype == np.float32:
            fed[name] = 0.3 * random(*shape, seed=index)
    fed["held"] = fed["held"][:, :, :0]
    fed |= {"left_valid": np.array([False]), "hold": np.array([1]), "keep": np.array([-1])}
    velocities = []
    for blocks, begin in ((3, True), (2, False)):
        mel = 0.3 * random(2, blocks * block, fed["mel"].shape[-1], seed=blocks)
        fed |= {"mel": mel, "frames": np.array([blocks * block]), "left_valid": np.array([not begin])}
        fed["codec"] = np.arange(2 * blocks * block // repeats).reshape(2, -1) % 7
        velocity, keys, values, held = graph.run(fed, ["velocity", "keys", "values", "next_held"])
        fed |= {"left_keys": keys, "left_values": values, "held": held}
        velocities.append(velocity)
    return velocities
