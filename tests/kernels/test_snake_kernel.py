"""The activations in C, compared with their definitions. Parity tests compare the definitions with the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.vocoder.bigvgan import whole_utterance
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.models.token2wav import bigvgan, snake
from omni_export.models.token2wav.stream_state import Boundary, StreamState
from omni_quant.precision import Precision
from support.vocoders import prepared_kinds, snr

Feeds = dict[str, NDArray[Any]]
SCALE, ZERO = np.float32(0.03), np.uint8(117)
REACH = 7


class _Snake:
    """The tensors `act.alpha` and `act.beta` of one activation."""

    def __init__(self, channels: int) -> None:
        self._values = np.random.default_rng(channels).normal(0, 0.5, (2, channels)).astype(np.float32)

    def __call__(self, name: str) -> LazyTensor:
        return LazyTensor.wrap(self._values[int(name == "act.beta")], name)


def activation(kind: str, channels: int, folder: Path) -> Path:
    """A graph of one activation: x, ahead, begin, state.0 -> y, next_state.0."""
    g = GraphBuilder(kind)
    quantized = kind == "QLinearSnake"
    x = g.input("x", [1, channels, 1, "time"], "uint8" if quantized else "float32")
    g.input("begin", [1], "bool")
    boundary = Boundary(g, g.input("ahead", [1], "int64"))
    boundary.at(x, "/x")
    state = StreamState(g, boundary, 0, channels)
    weights: Any = _Snake(channels)
    if kind == "Snake":
        y = snake.activation(g, x, state, "begin", weights, "/act", degree=snake.EXACT_DEGREE)
    else:
        affine = (g.const(np.asarray(SCALE)), g.const(np.asarray(ZERO)))
        y = snake.quantized_activation(
            g,
            x,
            state,
            "begin",
            weights,
            "/act",
            degree=snake.EXACT_DEGREE,
            reach=REACH,
            y=affine,
            quantized_x=affine if quantized else None,
        )
    state.close()
    g.output(y, "y", [1, channels, 1, "samples"], "float32" if kind == "Snake" else "uint8")
    return g.save(folder).graph


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, Graph]:
    """The graph with standard operators, and with ours."""
    compiled = Graph(path, threads=2)
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    return Graph(path, threads=2), compiled


def signal(kind: str, channels: int, length: int, begin: bool, ahead: int) -> Feeds:
    random = np.random.default_rng(length)
    x: NDArray[Any] = random.normal(0, 1, (1, channels, 1, length)).astype(np.float32)
    reach = 0 if kind == "Snake" else REACH
    past = random.normal(0, 1, (1, channels, 1, 9 + reach)).astype(np.float32)
    if kind == "QLinearSnake":
        x = np.clip(x / SCALE + ZERO, 0, 255).astype(np.uint8)
    return {"x": x, "state.0": past, "begin": np.array([begin]), "ahead": np.array([ahead], np.int64)}


# One sample, less than the reach of the filters, a tile of the kernel and sizes around it, several tiles.
@pytest.mark.parametrize("length", [1, 2, 5, 13, 511, 512, 513, 515, 516, 1700])
@pytest.mark.parametrize("kind", ["Snake", "SnakeQuantizeLinear", "QLinearSnake"])
@pytest.mark.usefixtures("compiled")
def test_the_operator_is_its_definition(
    kind: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standard, ours = both(activation(kind, 5, tmp_path), monkeypatch)
    for begin in (False, True):
        for ahead in sorted({0, 1, length // 2, length}):
            feeds = signal(kind, 5, length, begin, min(ahead, length))
            (y, state), (our_y, our_state) = (graph.run(feeds, ["y", "next_state.0"]) for graph in (standard, ours))
            if kind == "Snake":
                np.testing.assert_allclose(our_y, y, atol=1e-5)
                np.testing.assert_allclose(our_state, state, atol=1e-5)
                continue
            # A value half way between two codes may be rounded to either.
            difference = np.abs(our_y.astype(int) - y)
            assert difference.max() <= 1
            assert difference.mean() < 0.002
            np.testing.assert_allclose(our_state[..., :9], state[..., :9], atol=1e-5)
            np.testing.assert_allclose(our_state[..., 9:], state[..., 9:], atol=1.01 * SCALE)


@pytest.mark.usefixtures("compiled")
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    graph = Graph(activation("Snake", 5, tmp_path))
    feeds = signal("Snake", 5, 20, begin=False, ahead=21)
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run(feeds, ["y"])


@pytest.mark.usefixtures("compiled")
def test_the_vocoder_by_our_operators(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32, whole and prepared, gives the same samples; the graph contains our operators."""
    source = Checkpoint(checkpoint)
    config = OmniConfig.parse(source.config).bigvgan
    assert config is not None
    path = bigvgan.build(source.scope(bigvgan.PREFIX), config, Precision()).save(tmp_path).graph
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    activations = 1 + 2 * sum(map(len, config.resblock_dilation_sizes)) * len(config.upsample_rates)
    assert kinds.count("Snake") == activations
    prepared = Graph(tmp_path / "prepared.onnx")
    standard, ours = both(path, monkeypatch)
    mel = np.random.default_rng(0).normal(-4, 3, (31, config.mel_dim)).astype(np.float32)
    wanted, *others = (
        graph.run(whole_utterance(standard, mel), ["samples"])[0] for graph in (standard, ours, prepared)
    )
    for samples in others:
        assert snr(wanted, samples) > 94
