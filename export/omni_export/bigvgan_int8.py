"""INT8 convolutions for BigVGAN: ranges measured on reference mels, then static quantization.

The convolutions of the residual blocks are 95 % of the vocoder's work, and with INT8 operands four to seven times as
fast. Their inputs and outputs need a fixed scale each, which only data can tell: the float32 graph runs once over the
voices' reference mels (`spk_dict.pt`) with the extremes of every convolution as extra outputs. Everything between the
convolutions (residual sums, activations, up-samplers) stays in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omni_edge.bigvgan import whole_utterance
from omni_edge.graph import Graph
from omni_export.carried import Carried
from omni_export.checkpoint import Scope
from omni_export.graph import GraphBuilder
from omni_quant import quantize_channelwise

Array = NDArray[np.float32]
Ranges = dict[str, tuple[float, float]]
"""Value in the graph -> (lowest, highest)."""

_LEVELS = 255


class Convolution(Protocol):
    """How a dense convolution over time becomes nodes; returns its output."""

    def __call__(
        self, g: GraphBuilder, x: str, carried: Carried, weights: Scope, name: str, kernel: int, dilation: int = 1
    ) -> str: ...


class Observed:
    """A convolution whose input and output extremes are taken.

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


class Int8:
    """A convolution with uint8 activations of known range and one weight scale per output channel."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges

    def __call__(
        self, g: GraphBuilder, x: str, carried: Carried, weights: Scope, name: str, kernel: int, dilation: int = 1
    ) -> str:
        weight, bias = weights("weight"), weights("bias")
        outputs, inputs, taps = weight.shape
        x_scale, x_zero = _affine(self._ranges[f"{name}/in"])
        y_scale, y_zero = _affine(self._ranges[f"{name}/out"])

        def produce() -> Iterable[NDArray[np.generic]]:
            result = quantize_channelwise(weight.load())
            steps = result.scales.astype(np.float64) * float(x_scale)
            limit = np.iinfo(np.int32).max
            codes = np.clip(np.rint(bias.load() / steps), -limit, limit).astype(np.int32)
            return [result.codes.reshape(outputs, inputs, 1, taps), result.scales, codes]

        w, scales, b = g.computed(
            [
                (f"{name}.weight_S8", np.dtype(np.int8), (outputs, inputs, 1, taps)),
                (f"{name}.weight_scales", np.dtype(np.float32), (outputs,)),
                (f"{name}.bias_S32", np.dtype(np.int32), (outputs,)),
            ],
            produce,
        )
        zeros = g.const(np.zeros(outputs, np.int8), f"const/zeros/{outputs}")
        entry = [g.const(np.asarray(x_scale)), g.const(np.asarray(x_zero))]
        leave = [g.const(np.asarray(y_scale)), g.const(np.asarray(y_zero))]
        reach = (kernel - 1) * dilation // 2
        # The signal and what precedes it are joined as bytes.
        quantized = g.op("QuantizeLinear", [x, *entry], f"{name}/quantize")
        state = g.op("QuantizeLinear", [carried.take(reach, name), *entry], f"{name}/state/quantize")
        extended = g.op("Concat", [state, quantized], f"{name}/extended", axis=3)
        kept = carried.boundary.before(extended, reach, f"{name}/next")
        carried.keep(g.op("DequantizeLinear", [kept, *entry], f"{name}/next/dequantize"))
        y = g.op(
            "QLinearConv",
            [extended, *entry, w, scales, zeros, *leave, b],
            name,
            dilations=[1, dilation],
            pads=[0, 0, 0, reach],
            kernel_shape=[1, kernel],
        )
        return g.op("DequantizeLinear", [y, *leave], f"{name}/dequantize")


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
