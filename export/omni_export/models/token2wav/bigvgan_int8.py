"""INT8 convolutions for BigVGAN: ranges measured on reference mels, then static quantization.

The convolutions of the residual blocks are 95 % of the vocoder's work, and with INT8 operands four to seven times as
fast. Their inputs and outputs need a fixed scale each, which only data can tell: the float32 graph runs once over the
voices' reference mels (`spk_dict.pt`) with the extremes of every convolution as extra outputs. Residual sums and
up-samplers stay in float32, and so does what an activation does inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.vocoder.bigvgan import whole_utterance
from omni_export.checkpoint.checkpoint import Scope
from omni_export.graph.builder import GraphBuilder
from omni_export.models.token2wav.bigvgan_residual import Convolution, Half, Unit
from omni_export.models.token2wav.panel_conv import panel_conv, panels_of, panels_shape
from omni_export.models.token2wav.snake import Affine, quantized_activation
from omni_export.models.token2wav.stream_state import Carried
from omni_quant import quantize_channelwise

Array = NDArray[np.float32]
Ranges = dict[str, tuple[float, float]]
"""Value in the graph -> (lowest, highest)."""

_LEVELS = 255


class Observed:
    """Makes float32 convolutions whose input's and output's extremes are taken.

    The graph goes on with the values clipped to their own extremes, which are the same values: onnxruntime would put
    the extremes off otherwise, and keep all that they are taken of until the end (5 MB for each frame of mel).
    """

    def __init__(self, convolution: Convolution) -> None:
        self._convolution = convolution
        self._extremes: list[str] = []
        self.watched: list[str] = []

    def __call__(
        self, g: GraphBuilder, x: str, carried: Carried, weights: Scope, name: str, kernel: int, dilation: int = 1
    ) -> str:
        y = self._convolution(g, self._watch(g, x, f"{name}/in"), carried, weights, name, kernel, dilation)
        return self._watch(g, y, f"{name}/out")

    def _watch(self, g: GraphBuilder, value: str, path: str) -> str:
        extremes = [g.op(kind, [value], f"{path}/{kind}", keepdims=0) for kind in ("ReduceMin", "ReduceMax")]
        self._extremes += [g.op("Reshape", [extreme, g.const([1])], f"{extreme}/row") for extreme in extremes]
        self.watched.append(path)
        return g.op("Clip", [value, *extremes], f"{path}/same")

    def publish(self, g: GraphBuilder) -> None:
        """Adds the output `extremes`, float32 [2 * watched]: lowest and highest, one pair after the other."""
        g.output(g.op("Concat", self._extremes, "/extremes", axis=0), "extremes", [len(self._extremes)])


@dataclass(frozen=True)
class Int8:
    """Residual units with uint8 activations of known range and one weight scale per output channel.

    Between the two convolutions of a unit nothing but bytes is passed on; what the second one adds is not rounded.
    """

    ranges: Ranges
    degree: int

    def __call__(self, g: GraphBuilder, x: str, carried: Carried, unit: Unit) -> str:
        first, second = unit.halves()
        y = self.activation(g, x, None, carried, first)
        y = self.convolution(g, y, first)
        y = self.activation(g, y, self.affine(g, f"{first.path}/out"), carried, second)
        return self.convolution(g, y, second, rest=x)

    def activation(self, g: GraphBuilder, x: str, quantized_x: Affine | None, carried: Carried, half: Half) -> str:
        """The snake of a half, for its convolution: uint8 as `<path>/in`; x is float32, or uint8 as `quantized_x`."""
        return quantized_activation(
            g,
            x,
            carried,
            "begin",
            half.activation,
            half.activation_path,
            degree=self.degree,
            reach=half.reach,
            y=self.affine(g, f"{half.path}/in"),
            quantized_x=quantized_x,
        )

    def convolution(self, g: GraphBuilder, x: str, half: Half, rest: str | None = None) -> str:
        """The convolution of a half: uint8 as `<path>/out`, or float32 added to `rest`.

        Args:
            g: the graph.
            x: uint8 [1, C, 1, reach + T], as `<path>/in`.
            half: names it.
            rest: float32 [1, C, 1, T].
        """
        entry, leave = self.affine(g, f"{half.path}/in"), self.affine(g, f"{half.path}/out")
        *matrix, bias = self.weights(g, half)
        inputs = [x, *entry, *matrix, *leave, bias]
        return g.call(
            panel_conv(added=rest is not None),
            [*inputs, rest] if rest else inputs,
            half.path,
            dilation=half.dilation,
            dilations=[1, half.dilation],
            pads=[0, 0, 0, half.reach],
        )[0]

    def weights(self, g: GraphBuilder, half: Half) -> list[str]:
        """Codes, their sums, scales and zero points of a convolution's weights, and its bias."""
        weight, bias = half.convolution("weight"), half.convolution("bias")
        channels, _, taps = weight.shape
        x_scale, _ = _affine(self.ranges[f"{half.path}/in"])

        def produce() -> Iterable[NDArray[np.generic]]:
            result = quantize_channelwise(weight.load())
            steps = result.scales.astype(np.float64) * float(x_scale)
            limit = np.iinfo(np.int32).max
            biases = np.clip(np.rint(bias.load() / steps), -limit, limit).astype(np.int32)
            return [panels_of(result.codes), result.codes.sum((1, 2), dtype=np.int32), result.scales, biases]

        each, name = (channels,), half.path
        codes, sums, scales, biases = g.computed(
            [
                (f"{name}.weight_S8", np.dtype(np.int8), panels_shape(channels, taps)),
                (f"{name}.weight_sums", np.dtype(np.int32), each),
                (f"{name}.weight_scales", np.dtype(np.float32), each),
                (f"{name}.bias_S32", np.dtype(np.int32), each),
            ],
            produce,
        )
        zeros = g.const(np.zeros(channels, np.int8), f"const/zeros/{channels}")
        return [codes, sums, scales, zeros, biases]

    def affine(self, g: GraphBuilder, path: str) -> Affine:
        """How the value `path` is quantized."""
        scale, zero = _affine(self.ranges[path])
        return g.const(np.asarray(scale)), g.const(np.asarray(zero))


def _affine(extremes: tuple[float, float]) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 over a range that is widened to hold zero."""
    low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
    scale = np.float32((high - low) / _LEVELS) or np.float32(1)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, _LEVELS))


def measure(assemble: Callable[[Convolution], GraphBuilder], convolution: Convolution, mels: Sequence[Array]) -> Ranges:
    """Runs the float32 graph over `mels` and returns the range of every convolution's input and output.

    Args:
        assemble: builds the graph around a way to make convolutions.
        convolution: the float32 way.
        mels: float32 [frames, mel_dim], natural logarithm.
    """
    observed = Observed(convolution)
    builder = assemble(observed)
    observed.publish(builder)
    with TemporaryDirectory() as folder:
        graph = Graph(builder.save(Path(folder)).graph)
        ranges: Ranges = {}
        for mel in mels:
            feeds = whole_utterance(graph, mel)
            (extremes,) = graph.run(feeds, ["extremes"])
            for path, (low, high) in zip(observed.watched, extremes.reshape(-1, 2), strict=True):
                before = ranges.get(path, (0.0, 0.0))
                ranges[path] = (min(before[0], float(low)), max(before[1], float(high)))
        del graph
    return ranges
