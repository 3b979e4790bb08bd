"""INT8 convolutions for BigVGAN: ranges measured on reference mels, then static quantization.

The convolutions of the residual blocks are 95 % of the vocoder's work. INT8 operands make them four to seven times as
fast. Each input and output needs a fixed scale, which is calibrated: the float32 graph runs once over the voices'
reference mels (`spk_dict.pt`), with the extremes of every convolution as extra outputs. Residual sums, up-samplers and
the arithmetic inside an activation stay in float32.
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
from omni_export.models.token2wav.bigvgan_residual import ActivatedConv, Convolution, Unit
from omni_export.models.token2wav.panel_conv import panel_conv, panels_of, panels_shape
from omni_export.models.token2wav.snake import Affine, quantized_activation
from omni_export.models.token2wav.stream_state import StreamState
from omni_quant import quantize_channelwise

Array = NDArray[np.float32]
Ranges = dict[str, tuple[float, float]]
"""Path of a value in the graph -> (lowest, highest)."""

_LEVELS = 255


class Observed:
    """Builds float32 convolutions and observes the extremes of their inputs and outputs.

    The graph continues with the values clipped to their own extremes, which changes nothing. Otherwise onnxruntime
    would compute the extremes last and keep all the values until then (5 MB per mel frame).
    """

    def __init__(self, convolution: Convolution) -> None:
        self._convolution = convolution
        self._extremes: list[str] = []
        self.watched: list[str] = []

    def __call__(
        self, g: GraphBuilder, x: str, state: StreamState, weights: Scope, name: str, kernel: int, dilation: int = 1
    ) -> str:
        y = self._convolution(g, self._watch(g, x, f"{name}/in"), state, weights, name, kernel, dilation)
        return self._watch(g, y, f"{name}/out")

    def _watch(self, g: GraphBuilder, value: str, path: str) -> str:
        extremes = [g.op(kind, [value], f"{path}/{kind}", keepdims=0) for kind in ("ReduceMin", "ReduceMax")]
        self._extremes += [g.op("Reshape", [extreme, g.const([1])], f"{extreme}/row") for extreme in extremes]
        self.watched.append(path)
        return g.op("Clip", [value, *extremes], f"{path}/same")

    def publish(self, g: GraphBuilder) -> None:
        """Adds the output `extremes`, float32 [2 * watched]: pairs of lowest and highest."""
        g.output(g.op("Concat", self._extremes, "/extremes", axis=0), "extremes", [len(self._extremes)])


@dataclass(frozen=True)
class Int8:
    """Builds residual units with uint8 activations of known range and one weight scale per output channel.

    Values between the two convolutions of a unit are uint8. The sum that the second one adds to stays in float32.
    """

    ranges: Ranges
    degree: int

    def __call__(self, g: GraphBuilder, x: str, state: StreamState, unit: Unit) -> str:
        first, second = unit.convolutions()
        y = self.activation(g, x, None, state, first)
        y = self.convolution(g, y, first)
        y = self.activation(g, y, self.affine(g, f"{first.path}/out"), state, second)
        return self.convolution(g, y, second, rest=x)

    def activation(
        self, g: GraphBuilder, x: str, quantized_x: Affine | None, state: StreamState, conv: ActivatedConv
    ) -> str:
        """The activation before a convolution.

        Args:
            g: the graph.
            x: float32, or uint8 where `quantized_x` is given, [1, C, 1, T].
            quantized_x: scale and zero point of x.
            state: of the signal.
            conv: the convolution.

        Returns:
            uint8 [1, C, 1, reach + T], with the scale and zero point of `<path>/in`.
        """
        return quantized_activation(
            g,
            x,
            state,
            "begin",
            conv.activation,
            conv.activation_path,
            degree=self.degree,
            reach=conv.reach,
            y=self.affine(g, f"{conv.path}/in"),
            quantized_x=quantized_x,
        )

    def convolution(self, g: GraphBuilder, x: str, conv: ActivatedConv, rest: str | None = None) -> str:
        """The convolution.

        Args:
            g: the graph.
            x: uint8 [1, C, 1, reach + T], with the scale and zero point of `<path>/in`.
            conv: the convolution.
            rest: float32 [1, C, 1, T], which the result is added to.

        Returns:
            float32 [1, C, 1, T] with `rest`; otherwise uint8, with the scale and zero point of `<path>/out`.
        """
        entry, leave = self.affine(g, f"{conv.path}/in"), self.affine(g, f"{conv.path}/out")
        *matrix, bias = self.weights(g, conv)
        inputs = [x, *entry, *matrix, *leave, bias]
        return g.call(
            panel_conv(added=rest is not None),
            [*inputs, rest] if rest else inputs,
            conv.path,
            dilation=conv.dilation,
            dilations=[1, conv.dilation],
            pads=[0, 0, 0, conv.reach],
        )[0]

    def weights(self, g: GraphBuilder, conv: ActivatedConv) -> list[str]:
        """A convolution's initializers: codes, sums of codes, scales, zero points, bias."""
        weight, bias = conv.convolution("weight"), conv.convolution("bias")
        channels, _, taps = weight.shape
        x_scale, _ = _affine(self.ranges[f"{conv.path}/in"])

        def produce() -> Iterable[NDArray[np.generic]]:
            result = quantize_channelwise(weight.load())
            steps = result.scales.astype(np.float64) * float(x_scale)
            limit = np.iinfo(np.int32).max
            biases = np.clip(np.rint(bias.load() / steps), -limit, limit).astype(np.int32)
            return [panels_of(result.codes), result.codes.sum((1, 2), dtype=np.int32), result.scales, biases]

        each, name = (channels,), conv.path
        codes, sums, scales, biases = g.computed(
            [
                (f"{name}.weight_S8", np.dtype(np.int8), panels_shape(channels, taps)),
                (f"{name}.weight_sums", np.dtype(np.int32), each),
                (f"{name}.weight_scales", np.dtype(np.float32), each),
                (f"{name}.bias_S32", np.dtype(np.int32), each),
            ],
            produce,
        )
        zeros = g.const(np.zeros(channels, np.int8), f"{name}.weight_zeros")
        return [codes, sums, scales, zeros, biases]

    def affine(self, g: GraphBuilder, path: str) -> Affine:
        """Scale and zero point of the value `path`."""
        scale, zero = _affine(self.ranges[path])
        return g.const(np.asarray(scale)), g.const(np.asarray(zero))


def _affine(extremes: tuple[float, float]) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 for a range, which is widened to hold zero."""
    low, high = min(extremes[0], 0.0), max(extremes[1], 0.0)
    scale = np.float32((high - low) / _LEVELS) or np.float32(1)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, _LEVELS))


def measure(assemble: Callable[[Convolution], GraphBuilder], convolution: Convolution, mels: Sequence[Array]) -> Ranges:
    """Runs the float32 graph over `mels` and returns the range of every convolution's input and output.

    Args:
        assemble: builds the graph with the given builder of convolutions.
        convolution: the builder of float32 convolutions.
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
