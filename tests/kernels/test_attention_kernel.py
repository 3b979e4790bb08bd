"""Attention over a cache in C, compared with exact arithmetic; parity tests compare its definition to the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_export.graph.builder import GraphBuilder
from omni_export.models.decoder_layer import cached_attention

Array = NDArray[np.float32]
SCALE = 0.2


def attention(heads: int, kv_heads: int, width: int, folder: Path, dtype: str = "float32") -> Path:
    g = GraphBuilder("attention")
    cache = [1, kv_heads, "capacity", width]
    inputs = [
        g.input("qkv", [1, "length", (heads + 2 * kv_heads) * width]),
        *(g.input(name, cache, dtype) for name in ("key", "value")),
        *(g.input(name, [1], "int32") for name in ("last_slot", "total")),
        *(g.input(name, ["capacity", width // 2]) for name in ("cos", "sin")),
    ]
    if dtype == "int8":
        for name, step in zip(("key_step", "value_step"), steps(kv_heads, width), strict=True):
            inputs.append(g.const(step, name, inline=True))
    sizes = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": SCALE}
    attended, keys, values = g.call(cached_attention(dtype), inputs, "/attention", **sizes)
    g.output(attended, "attended", [1, "length", heads * width])
    g.output(keys, "keys", cache, dtype)
    g.output(values, "values", cache, dtype)
    return g.save(folder).graph


def steps(kv_heads: int, width: int) -> tuple[Array, Array]:
    """The steps of keys and of values, one for each channel."""
    random = np.random.default_rng(0)
    keys, values = (random.uniform(0.01, 0.05, kv_heads * width).astype(np.float32) for _ in range(2))
    return keys, values


def feeds(
    heads: int, kv_heads: int, width: int, length: int, past: int, capacity: int, dtype: str = "float32"
) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(past + length)
    angles = random.uniform(0, 6, (capacity, width // 2))
    total = past + length
    values: dict[str, NDArray[Any]] = {
        "qkv": random.standard_normal((1, length, (heads + 2 * kv_heads) * width)).astype(np.float32),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "last_slot": np.array([total - 1], np.int32),
        "total": np.array([total], np.int32),
    }
    for name in ("key", "value"):
        shape = (1, kv_heads, capacity, width)
        if dtype == "int8":
            values[name] = random.integers(-128, 128, shape, np.int8)
            continue
        values[name] = random.standard_normal(shape).astype(np.float32)
        values[name][:, :, past:] = np.nan  # an unwritten slot must not be read
    return values


def rotated(fed: dict[str, NDArray[Any]], heads: int, kv_heads: int, width: int) -> tuple[Array, Array, Array]:
    """New queries, keys and values in float64, each [length, its heads, width]."""
    length, total = fed["qkv"].shape[1], int(fed["total"][0])
    qkv = fed["qkv"][0].astype(np.float64).reshape(length, heads + 2 * kv_heads, width)
    cos, sin = (fed[name][total - length : total, None].astype(np.float64) for name in ("cos", "sin"))
    first, second = np.split(qkv[:, : heads + kv_heads], 2, axis=2)
    both = np.concatenate([first * cos - second * sin, second * cos + first * sin], 2)
    return both[:, :heads], both[:, heads:], qkv[:, heads + kv_heads :]


def attend(queries: Array, keys: Array, values: Array) -> Array:
    """Attention of queries [length, heads, width] over keys and values [kv_heads, total, width], in float64."""
    length, heads, _ = queries.shape
    kv_heads, total, _ = keys.shape
    seen = np.arange(total) <= total - length + np.arange(length)[:, None]
    attended = np.empty_like(queries)
    for head in range(heads):
        scores = np.where(seen, SCALE * queries[:, head] @ keys[head * kv_heads // heads].T, -np.inf)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        attended[:, head] = weights / weights.sum(1, keepdims=True) @ values[head * kv_heads // heads]
    return attended.reshape(length, -1)


def exact(fed: dict[str, NDArray[Any]], heads: int, kv_heads: int, width: int) -> tuple[Array, Array, Array]:
    """The attended values, and the cache up to the total, in float64."""
    length, total = fed["qkv"].shape[1], int(fed["total"][0])
    queries, *new = rotated(fed, heads, kv_heads, width)
    caches = [fed[name][0, :, :total].astype(np.float64) for name in ("key", "value")]
    for cache, more in zip(caches, new, strict=True):
        cache[:, total - length :] = more.transpose(1, 0, 2)
    return attend(queries, *caches), *caches


# The group sizes and widths of the 3B, the 7B and small models.
shapes = pytest.mark.parametrize(("heads", "kv_heads", "width"), [(16, 2, 128), (28, 4, 128), (4, 4, 16), (5, 1, 48)])


# One position, a few, both kinds of tiles and sizes around them; no past, less than a tile, several spans.
@shapes
@pytest.mark.parametrize("past", [0, 1, 63, 65, 1500])
@pytest.mark.parametrize("length", [1, 2, 17, 64, 130])
@pytest.mark.usefixtures("compiled")
def test_attention_is_exact(heads: int, kv_heads: int, width: int, length: int, past: int, tmp_path: Path) -> None:
    graph = Graph(attention(heads, kv_heads, width, tmp_path), threads=2)
    fed = feeds(heads, kv_heads, width, length, past, past + length + 5)
    before = {name: fed[name].copy() for name in ("key", "value")}
    attended, keys, values = exact(fed, heads, kv_heads, width)
    y, *caches = graph.run(fed, ["attended", "keys", "values"])
    np.testing.assert_allclose(y[0], attended, atol=1e-5)
    for cache, wanted in zip(caches, (keys, values), strict=True):
        np.testing.assert_allclose(cache[0, :, : past + length], wanted, atol=1e-5)
    for name, cache in before.items():
        np.testing.assert_array_equal(fed[name], cache)


@shapes
@pytest.mark.parametrize("past", [0, 65, 1500])
@pytest.mark.parametrize("length", [1, 17, 130])
@pytest.mark.usefixtures("compiled")
def test_attention_over_codes_is_exact(
    heads: int, kv_heads: int, width: int, length: int, past: int, tmp_path: Path
) -> None:
    graph = Graph(attention(heads, kv_heads, width, tmp_path, "int8"), threads=2)
    fed = feeds(heads, kv_heads, width, length, past, past + length + 5, "int8")
    y, *caches = graph.run(fed, ["attended", "keys", "values"])
    queries, *new = rotated(fed, heads, kv_heads, width)
    meant = []
    for name, codes, more, step in zip(("key", "value"), caches, new, steps(kv_heads, width), strict=True):
        by_channel = step.astype(np.float64).reshape(kv_heads, 1, width)
        wanted = np.clip(more.transpose(1, 0, 2) / by_channel, -128, 127)
        np.testing.assert_array_equal(codes[0, :, :past], fed[name][0, :, :past])
        np.testing.assert_allclose(codes[0, :, past : past + length], wanted, atol=0.5001)
        meant.append(codes[0, :, : past + length] * by_channel)
    np.testing.assert_allclose(y[0], attend(queries, *meant), atol=1e-5 * np.abs(meant[1]).max())


@pytest.mark.usefixtures("compiled")
def test_codes_are_those_of_the_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, kv_heads, width, past, length = 4, 2, 32, 20, 40
    path = attention(heads, kv_heads, width, tmp_path, "int8")
    fed = feeds(heads, kv_heads, width, length, past, past + length, "int8")
    # Multiples of half a step show how halves are rounded. Without an angle, keys are not rotated.
    fed["cos"], fed["sin"] = np.ones_like(fed["cos"]), np.zeros_like(fed["sin"])
    halves = np.random.default_rng(1).integers(-300, 300, (length, 2 * kv_heads * width)) / np.float32(2)
    fed["qkv"][0, :, heads * width :] = halves * np.concatenate(steps(kv_heads, width))
    ours = Graph(path).run(fed, ["keys", "values", "attended"])
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    theirs = Graph(path).run(fed, ["keys", "values", "attended"])
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_allclose(ours[2], theirs[2], atol=1e-4)


@pytest.mark.usefixtures("compiled")
def test_a_bound_cache_is_appended_to_in_place(tmp_path: Path) -> None:
    heads, kv_heads, width = 4, 2, 32
    graph = Graph(attention(heads, kv_heads, width, tmp_path), threads=2)
    fed = feeds(heads, kv_heads, width, 3, 70, 100)
    attended, keys, values = exact(fed, heads, kv_heads, width)
    y = np.empty((1, 3, heads * width), np.float32)
    binding = graph.binding()
    for name, array in fed.items():
        binding.input(name, array)
    for name, array in (("attended", y), ("keys", fed["key"]), ("values", fed["value"])):
        binding.output(name, array)
    binding.run()
    np.testing.assert_allclose(y[0], attended, atol=1e-5)
    np.testing.assert_allclose(fed["key"][0, :, :73], keys, atol=1e-5)
    np.testing.assert_allclose(fed["value"][0, :, :73], values, atol=1e-5)
    assert np.isnan(fed["key"][0, :, 73:]).all()


@pytest.mark.parametrize("name", ["total", "last_slot"])
@pytest.mark.usefixtures("compiled")
def test_a_cache_that_is_too_small_is_refused(name: str, tmp_path: Path) -> None:
    graph = Graph(attention(4, 2, 32, tmp_path))
    fed = feeds(4, 2, 32, 3, 70, 100)
    fed[name] = np.array([101], np.int32)
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run(fed, ["attended"])
