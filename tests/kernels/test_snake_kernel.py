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


class _Snake:
    """The tensors `act.alpha` and `act.beta` of one activation."""

    def __init__(self, channels: int) -> None:
        self._values = np.random.default_rng(channels).normal(0, 0.5, (2, channels)).astype(np.float32)

    def __call__(self, name: str) -> LazyTensor:
        return LazyTensor.wrap(self._values[int(name == "act.beta")], name)


def activation(channels: int, folder: Path) -> Path:
    """A graph of one activation: x, ahead, begin, state.0 -> y, next_state.0."""
    g = GraphBuilder("snake")
    x = g.input("x", [1, channels, 1, "time"])
    g.input("begin", [1], "bool")
    boundary = Boundary(g, g.input("ahead", [1], "int64"))
    boundary.at(x, "/x")
    state = StreamState(g, boundary, 0, channels)
    weights: Any = _Snake(channels)
    y = snake.activation(g, x, state, "begin", weights, "/act")
    state.close()
    g.output(y, "y", [1, channels, 1, "samples"])
    return g.save(folder).graph


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, Graph]:
    """The graph with standard operators, and with ours."""
    compiled = Graph(path, threads=2)
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    return Graph(path, threads=2), compiled


def signal(channels: int, length: int, begin: bool, ahead: int) -> Feeds:
    random = np.random.default_rng(length)
    x = random.normal(0, 1, (1, channels, 1, length)).astype(np.float32)
    past = random.normal(0, 1, (1, channels, 1, 9)).astype(np.float32)
    return {"x": x, "state.0": past, "begin": np.array([begin]), "ahead": np.array([ahead], np.int64)}


# One sample, less than the reach of the filters, a tile of the kernel and sizes around it, several tiles.
@pytest.mark.parametrize("length", [1, 2, 5, 13, 511, 512, 513, 515, 516, 1700])
@pytest.mark.usefixtures("compiled")
def test_the_operator_is_its_definition(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standard, ours = both(activation(5, tmp_path), monkeypatch)
    for begin in (False, True):
        for ahead in sorted({0, 1, length // 2, length}):
            feeds = signal(5, length, begin, min(ahead, length))
            (y, state), (our_y, our_state) = (graph.run(feeds, ["y", "next_state.0"]) for graph in (standard, ours))
            np.testing.assert_allclose(our_y, y, atol=1e-5)
            np.testing.assert_allclose(our_state, state, atol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    graph = Graph(activation(5, tmp_path))
    feeds = signal(5, 20, begin=False, ahead=21)
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
