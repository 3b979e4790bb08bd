"""The INT8 convolution in C, compared with exact arithmetic and its definition, alone and in BigVGAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from omni_edge.backend import kernels
from omni_edge.backend.graph import Graph
from omni_edge.vocoder.bigvgan import whole_utterance
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.graph.builder import GraphBuilder
from omni_export.models.token2wav import bigvgan, voices
from omni_export.models.token2wav.panel_conv import panel_conv, panels_of
from omni_quant.precision import Kind, Precision
from support.vocoders import prepared_kinds, snr

X_SCALE, X_ZERO = np.float32(0.02), np.uint8(117)
Y_SCALE, Y_ZERO = np.float32(0.3), np.uint8(99)


@pytest.fixture
def ours(compiled: None) -> None:
    """Graphs that are loaded now use our convolution; skips where the processor has no products of bytes."""
    library = kernels.compiled()
    if library is None or b"PanelConv" not in library.read_bytes():
        pytest.skip("no dot products of bytes")


class Convolution:
    """Codes of at most `bound`, scales and biases of a convolution, and its exact result."""

    def __init__(self, channels: int, taps: int, dilation: int, bound: int = 127) -> None:
        random = np.random.default_rng(channels + taps)
        self.codes = random.integers(-bound, bound + 1, (channels, channels, taps)).astype(np.int8)
        self.scales = random.uniform(0.001, 0.02, channels).astype(np.float32)
        self.bias = random.integers(-9000, 9000, channels).astype(np.int32)
        self.dilation = dilation
        self.reach = (taps - 1) * dilation // 2

    def save(self, folder: Path, added: bool) -> Path:
        g = GraphBuilder("conv")
        channels = len(self.codes)
        inputs = [
            g.input("x", [1, channels, 1, "given"], "uint8"),
            *(g.const(np.asarray(value)) for value in (X_SCALE, X_ZERO)),
            *(
                g.const(value, name)
                for name, value in (
                    ("codes", panels_of(self.codes)),
                    ("sums", self.codes.sum((1, 2), dtype=np.int32)),
                    ("scales", self.scales),
                    ("zeros", np.zeros(channels, np.int8)),
                )
            ),
            *(g.const(np.asarray(value)) for value in (Y_SCALE, Y_ZERO)),
            g.const(self.bias, "bias"),
        ]
        if added:
            inputs.append(g.input("rest", [1, channels, 1, "time"]))
        dilations, pads = [1, self.dilation], [0, 0, 0, self.reach]
        (y,) = g.call(panel_conv(added), inputs, "/conv", dilation=self.dilation, dilations=dilations, pads=pads)
        g.output(y, "y", [1, channels, 1, "time"], "float32" if added else "uint8")
        return g.save(folder).graph

    def exact(self, x: NDArray[np.uint8]) -> NDArray[np.float64]:
        """x [1, channels, 1, reach + time] -> [channels, time]."""
        padded = np.pad(x[0, :, 0].astype(np.int64) - int(X_ZERO), ((0, 0), (0, self.reach)))
        time = padded.shape[1] - 2 * self.reach
        sums = self.bias[:, None].astype(np.int64)
        for tap in range(self.codes.shape[2]):
            start = tap * self.dilation
            sums = sums + self.codes[:, :, tap].astype(np.int64) @ padded[:, start : start + time]
        return sums * (np.float64(X_SCALE) * self.scales[:, None].astype(np.float64))


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# Channels that fill no quad, no panel, several panels; one sample, less than a vector, several tiles.
@pytest.mark.parametrize(("channels", "taps", "dilation"), [(2, 3, 1), (7, 7, 3), (24, 11, 5), (50, 3, 5), (96, 7, 1)])
@pytest.mark.usefixtures("ours")
def test_the_convolution_is_exact(channels: int, taps: int, dilation: int, tmp_path: Path) -> None:
    convolution = Convolution(channels, taps, dilation)
    plain = Graph(convolution.save(tmp_path, added=False), threads=2)
    added = Graph(convolution.save(tmp_path, added=True), threads=2)
    for time in (0, 1, 15, 33, 200, 1000):
        random = np.random.default_rng(time)
        x = random.integers(0, 256, (1, channels, 1, convolution.reach + time)).astype(np.uint8)
        rest = random.standard_normal((1, channels, 1, time)).astype(np.float32)
        wanted = convolution.exact(x)
        (codes,) = plain.run({"x": x}, ["y"])
        rounded = np.clip(np.rint(wanted / np.float64(Y_SCALE)) + int(Y_ZERO), 0, 255)
        # A value half way between two codes may be rounded to either.
        difference = np.abs(codes[0, :, 0] - rounded)
        assert codes.shape == rest.shape
        assert difference.max(initial=0) <= 1
        assert difference.sum() <= 1e-3 * difference.size
        (y,) = added.run({"x": x, "rest": rest}, ["y"])
        np.testing.assert_allclose(y[0, :, 0], rest[0, :, 0] + wanted, rtol=1e-6, atol=2e-5)


@pytest.mark.usefixtures("ours")
def test_the_convolution_is_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With larger codes, onnxruntime's sums of two products saturate on x86 processors without VNNI.
    convolution = Convolution(50, 7, 3, bound=63)
    random = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {"x": random.integers(0, 256, (1, 50, 1, 109)).astype(np.uint8)}
    plain, added = (convolution.save(made(tmp_path / str(kind)), added=kind) for kind in (False, True))
    rest = {"rest": random.standard_normal((1, 50, 1, 100)).astype(np.float32)}
    codes, our_sum = Graph(plain).run(feeds, ["y"])[0], Graph(added).run(feeds | rest, ["y"])[0]
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    standard, its_sum = Graph(plain).run(feeds, ["y"])[0], Graph(added).run(feeds | rest, ["y"])[0]
    assert np.abs(codes.astype(int) - standard).max() <= 1
    inside = (standard > 0) & (standard < 255)
    # The definition rounds before it adds.
    assert np.abs(our_sum - its_sum)[inside].max() <= 0.51 * Y_SCALE


@pytest.mark.usefixtures("ours")
def test_inputs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    graph = Graph(Convolution(7, 7, 3).save(tmp_path, added=True))
    x = np.zeros((1, 7, 1, 29), np.uint8)
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run({"x": x, "rest": np.zeros((1, 7, 1, 19), np.float32)}, ["y"])
    with pytest.raises(Exception, match="inputs do not fit"):
        graph.run({"x": x[..., :8], "rest": np.zeros((1, 7, 1, 0), np.float32)}, ["y"])


@pytest.mark.usefixtures("compiled")
def test_the_vocoder_by_our_convolutions(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """INT8 is as close to float32 with our operators as with onnxruntime's; the graph contains our operators."""
    source = Checkpoint(checkpoint)
    config = OmniConfig.parse(source.config)
    assert config.bigvgan is not None
    assert config.dit is not None
    weights = source.scope(bigvgan.PREFIX)
    exact = Graph(bigvgan.build(weights, config.bigvgan, Precision()).save(made(tmp_path / "float")).graph)
    mels = [voice.ref_mel for voice in voices.published(source, config.dit).values()]
    path = bigvgan.build(weights, config.bigvgan, Precision(Kind.INT8), mels).save(made(tmp_path / "int8")).graph
    kinds = prepared_kinds(path, tmp_path / "prepared.onnx")
    graphs = [Graph(path), Graph(tmp_path / "prepared.onnx")]
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    graphs.append(Graph(path))
    units = sum(map(len, config.bigvgan.resblock_dilation_sizes)) * len(config.bigvgan.upsample_rates)
    supported = kinds.count("PanelConv") == units
    assert supported or kinds.count("QLinearConv") == 2 * units  # where the processor has no products of bytes
    assert kinds.count("PanelConvAdd") == (units if supported else 0)
    mel = np.concatenate(mels)[:40]
    wanted = exact.run(whole_utterance(exact, mel), ["samples"])[0]
    ours, prepared, standard = (snr(wanted, graph.run(whole_utterance(graph, mel), ["samples"])[0]) for graph in graphs)
    assert ours == pytest.approx(prepared, abs=1e-6)
    assert ours > standard - 0.5
