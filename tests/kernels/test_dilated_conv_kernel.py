"""The convolution in C, compared with exact arithmetic and its definition, alone and in BigVGAN."""

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
from omni_export.models.token2wav import bigvgan, voices
from omni_export.models.token2wav.dilated_conv import dilated_conv
from omni_quant import quantize_channelwise
from omni_quant.precision import Kind, Precision
from support.vocoders import prepared_kinds, snr

# Rounding of Winograd's method by the taps of a filter, in dB; measured 115, 120, 115, 111, 101, 92, 109.
ROUNDING = {1: 110, 3: 110, 5: 108, 7: 104, 9: 95, 11: 86, 13: 100}


class Convolution:
    """Weights and a bias of a convolution, and its result in float64."""

    def __init__(self, inputs: int, outputs: int, taps: int, dilation: int) -> None:
        random = np.random.default_rng(inputs + taps)
        self.weight = random.normal(0, 1, (outputs, inputs, taps)).astype(np.float32)
        self.bias = random.normal(0, 1, outputs).astype(np.float32)
        self.dilation = dilation
        self.reach = (taps - 1) * dilation // 2

    def save(self, folder: Path, added: bool) -> Path:
        g = GraphBuilder("conv")
        outputs, inputs, _ = self.weight.shape
        x = g.input("x", [1, inputs, 1, "given"])
        rest = g.input("rest", [1, outputs, 1, "time"]) if added else None
        weight, bias = LazyTensor.wrap(self.weight, "w"), LazyTensor.wrap(self.bias, "b")
        y = dilated_conv(g, x, weight, bias, "/conv", dilation=self.dilation, rest=rest)
        g.output(y, "y", [1, outputs, 1, "time"])
        return g.save(folder).graph

    def exact(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """x [1, inputs, 1, reach + time] -> [1, outputs, 1, time], of the weights' 16 bits."""
        result = quantize_channelwise(self.weight, bits=16)
        weight = result.codes.astype(np.float64) * result.scales[:, None, None].astype(np.float64)
        padded = np.pad(x[0, :, 0].astype(np.float64), ((0, 0), (0, self.reach)))
        time = padded.shape[1] - 2 * self.reach
        y = np.tile(self.bias[:, None].astype(np.float64), (1, time))
        for tap in range(weight.shape[2]):
            y += weight[:, :, tap] @ padded[:, tap * self.dilation : tap * self.dilation + time]
        return y[None, :, None]

    def feeds(self, time: int, added: bool) -> dict[str, NDArray[Any]]:
        random = np.random.default_rng(time)
        outputs, inputs, _ = self.weight.shape
        x = random.normal(0.5, 1, (1, inputs, 1, self.reach + time)).astype(np.float32)
        rest = random.standard_normal((1, outputs, 1, time)).astype(np.float32)
        return {"x": x} | ({"rest": rest} if added else {})


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# Channels that fill no vector, no panel, one, several; few and many of them; every filter; dilations with code of their
# own and without; other outputs than inputs.
SHAPES = [
    (2, 2, 3, 1),
    (7, 7, 7, 3),
    (24, 24, 11, 5),
    (50, 50, 3, 5),
    (96, 96, 7, 1),
    (5, 30, 1, 1),
    (30, 5, 5, 2),
    (9, 9, 9, 4),
    (20, 20, 13, 3),
    (128, 128, 11, 1),
    (192, 160, 7, 5),
]


@pytest.mark.parametrize(("inputs", "outputs", "taps", "dilation"), SHAPES)
@pytest.mark.usefixtures("compiled")
def test_the_convolution_is_exact_up_to_rounding(
    inputs: int, outputs: int, taps: int, dilation: int, tmp_path: Path
) -> None:
    convolution = Convolution(inputs, outputs, taps, dilation)
    plain = Graph(convolution.save(made(tmp_path / "plain"), added=False), threads=2)
    added = Graph(convolution.save(made(tmp_path / "added"), added=True), threads=2)
    # No sample, one, around a block of samples, around a strip of columns, several ranges of columns.
    block = 6 * dilation
    for time in (0, 1, 5, block - 1, block, block + 1, 97, 700, 3001):
        feeds = convolution.feeds(time, added=True)
        wanted = convolution.exact(feeds["x"])
        (y,) = plain.run({"x": feeds["x"]}, ["y"])
        (our_sum,) = added.run(feeds, ["y"])
        if time:
            assert snr(wanted.astype(np.float32), y) > ROUNDING[taps]
            assert snr(wanted.astype(np.float32), our_sum - feeds["rest"]) > ROUNDING[taps] - 3
        assert y.shape == our_sum.shape == wanted.shape


@pytest.mark.parametrize(("inputs", "outputs", "taps", "dilation"), SHAPES)
@pytest.mark.usefixtures("compiled")
def test_the_convolution_is_its_definition(
    inputs: int, outputs: int, taps: int, dilation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convolution = Convolution(inputs, outputs, taps, dilation)
    path = convolution.save(tmp_path, added=True)
    feeds = convolution.feeds(200, added=True)
    (ours,) = Graph(path).run(feeds, ["y"])
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    (standard,) = Graph(path).run(feeds, ["y"])
    assert snr(standard, ours) > ROUNDING[taps] - 3


@pytest.mark.parametrize("channels", [24, 200])
@pytest.mark.usefixtures("compiled")
def test_the_number_of_threads_changes_no_bit(channels: int, tmp_path: Path) -> None:
    convolution = Convolution(channels, channels, 7, 3)
    path = convolution.save(tmp_path, added=False)
    feeds = convolution.feeds(4000, added=False)
    one, three = (Graph(path, threads=threads).run(feeds, ["y"])[0] for threads in (1, 3))
    assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [24, 200])
@pytest.mark.usefixtures("compiled")
def test_what_is_no_number_stays_in_its_columns(value: float, channels: int, tmp_path: Path) -> None:
    """Every output that the sample reaches is no number; others are as before from a column's length away."""
    convolution = Convolution(channels, channels, 7, 3)
    graph = Graph(convolution.save(tmp_path, added=False), threads=2)
    feeds = convolution.feeds(1000, added=False)
    (before,) = graph.run(feeds, ["y"])
    at, reach, column = 500, convolution.reach, 6 * 3
    feeds["x"][0, 1, 0, at + reach] = value
    (after,) = graph.run(feeds, ["y"])
    reached = slice(at - reach, at + reach + 1, 3)
    assert not np.isfinite(after[0, :, 0, reached]).any()
    for untouched in (slice(0, at - reach - column), slice(at + reach + column, None)):
        assert after[..., untouched].tobytes() == before[..., untouched].tobytes()


@pytest.mark.usefixtures("compiled")
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    graph = Graph(Convolution(7, 7, 7, 3).save(tmp_path, added=True))
    x = np.zeros((1, 7, 1, 29), np.float32)
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run({"x": x, "rest": np.zeros((1, 7, 1, 19), np.float32)}, ["y"])
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run({"x": x[..., :8], "rest": np.zeros((1, 7, 1, 0), np.float32)}, ["y"])


@pytest.fixture
def int16(checkpoint: Path, tmp_path: Path) -> tuple[Graph, Path]:
    """BigVGAN of a test checkpoint: float32, and the path of the graph with 16-bit weights."""
    source = Checkpoint(checkpoint)
    config = OmniConfig.parse(source.config).bigvgan
    assert config is not None
    weights = source.scope(bigvgan.PREFIX)
    exact = bigvgan.build(weights, config, Precision()).save(made(tmp_path / "float")).graph
    return Graph(exact), bigvgan.build(weights, config, Precision(Kind.INT8)).save(made(tmp_path / "int16")).graph


def mel_like(frames: int) -> NDArray[np.float32]:
    return np.random.default_rng(frames).normal(-4, 3, (frames, 80)).astype(np.float32)


@pytest.mark.usefixtures("compiled")
def test_the_vocoder_by_our_convolutions(
    int16: tuple[Graph, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured 64 dB, with our operators as with onnxruntime's; the graph contains our operators."""
    exact, path = int16
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    graphs = [Graph(path), Graph(tmp_path / "prepared.onnx")]
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    graphs.append(Graph(path))
    assert kinds.count("DilatedConv") == kinds.count("DilatedConvAdd") > 0
    feeds = whole_utterance(exact, mel_like(40))
    wanted = exact.run(feeds, ["samples"])[0]
    ours, prepared, standard = (snr(wanted, graph.run(feeds, ["samples"])[0]) for graph in graphs)
    assert ours == pytest.approx(prepared, abs=1e-6)
    assert min(ours, standard) > 55


@pytest.mark.usefixtures("compiled")
def test_a_streamed_vocoder_is_the_whole_one(int16: tuple[Graph, Path]) -> None:
    """Columns lie elsewhere in a piece: what differs is rounding, as between two orders of addition."""
    graph = Graph(int16[1])
    mel, frames = mel_like(60), 20
    (whole,) = graph.run(whole_utterance(graph, mel), ["samples"])
    feeds, pieces = whole_utterance(graph, mel[:frames]), []
    states = [name for name in feeds if name.startswith("state.")]
    ahead = 20
    for start in range(0, len(mel), frames):
        part = mel[start : start + frames + ahead]
        feeds["mel"] = np.ascontiguousarray(part.T)[None]
        feeds["ahead"] = np.array([len(part) - frames], np.int64)
        feeds["keep"] = np.full_like(feeds["keep"], 1 << 20)
        samples, *kept = graph.run(feeds, ["samples", *(f"next_{name}" for name in states)])
        feeds |= dict(zip(states, kept, strict=True)) | {"begin": np.array([False])}
        pieces.append(samples)
    assert snr(whole, np.concatenate(pieces)) > 60


def test_the_built_in_model_speaks_as_in_float32(tmp_path: Path) -> None:
    """Trained weights, their voices' mels: 84 dB measured; 40 dB is what a default has to have."""
    source = Checkpoint(Path(__file__).parents[2] / "nano" / "omni-nano")
    config = OmniConfig.parse(source.config)
    assert config.dit is not None
    assert config.bigvgan is not None
    weights = source.scope(bigvgan.PREFIX)
    exact = Graph(bigvgan.build(weights, config.bigvgan, Precision()).save(made(tmp_path / "float")).graph)
    graph = Graph(bigvgan.build(weights, config.bigvgan, Precision(Kind.INT4)).save(made(tmp_path / "int16")).graph)
    for voice in voices.published(source, config.dit).values():
        feeds = whole_utterance(exact, voice.ref_mel)
        assert snr(*(each.run(feeds, ["samples"])[0] for each in (exact, graph))) > 75
