"""token2wav's second half: BigVGAN, log-mel frames to samples (reference: `Qwen2_5OmniToken2WavBigVGANModel`).

The function is the reference's to rounding (above 100 dB); the form is one a CPU likes:

- Each anti-aliased activation up-samples by two, applies snake-beta and down-samples by two. Here the two phases of the
  doubled signal are two rows of one tensor [1, channels, 2, time], so that both filters are ordinary depthwise
  convolutions over `time` and nothing is interleaved.
- sin^2 is a polynomial after range reduction: the Sin kernel runs on one core at a twentieth of a product's speed.
  a/pi and pi/a of snake's frequency `a` live in the filters before and after it.
- The division by the number of residual blocks lives in the next layer's weights.
- A window of a stream carries context frames; after every level they are cut to what later levels can still see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import CheckpointError
from omni_export.bigvgan_int8 import Convolution, Int8, measure
from omni_export.checkpoint import Scope
from omni_export.config import BigVGANConfig
from omni_export.graph import GraphBuilder, Precision
from omni_export.lazy import LazyTensor

Array = NDArray[np.float32]

PREFIX = "token2wav.code2wav_bigvgan_model"

# Constants of the reference's code that its config does not carry.
_PRE_KERNEL = 7
_POST_KERNEL = 7
_MIN_DB = -115.0
_REFERENCE_DB = 20.0
_SNAKE_EPSILON = 1e-9
_FILTER_TAPS = 12
_FILTER_HALF_WIDTH = 0.3
# Each phase of the doubled signal sees three samples to either side; up and down together six.
_PHASE_REACH = 3
_ACTIVATION_REACH = 2 * _PHASE_REACH
# Adding and subtracting 1.5 * 2^23 rounds a float32 to the nearest integer (half of Round's cost).
_ROUNDING = 12_582_912.0
# sin(pi r) = r * (c0 + c1 r^2 + c2 r^4 + c3 r^6) within 6.4e-7 on |r| <= 1/2.
_SINE_DEGREE = 7


@dataclass(frozen=True)
class Reach:
    """How far the network sees: context that makes a window's inside equal to the whole utterance.

    Attributes:
        frames: mel frames on each side of a window.
        levels: samples on each side that must survive each level, at that level's rate.
    """

    frames: int
    levels: tuple[int, ...]

    @classmethod
    def of(cls, config: BigVGANConfig) -> Reach:
        """The nominal receptive field; the outermost taps are so small that half of it is good for 100 dB."""
        need = _ACTIVATION_REACH + (_POST_KERNEL - 1) // 2
        levels = [need]
        for rate, kernel in list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))[::-1]:
            block = max(
                sum((size - 1) * dilation // 2 + (size - 1) // 2 + 2 * _ACTIVATION_REACH for dilation in dilations)
                for size, dilations in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            )
            padding = (kernel - rate) // 2
            need = ceil((need + block + kernel - 1 - padding) / rate)
            levels.append(need)
        levels.reverse()
        return cls(levels[0] + (_PRE_KERNEL - 1) // 2, tuple(levels[1:]))


def samples_per_frame(config: BigVGANConfig) -> int:
    """Samples that one mel frame becomes."""
    return prod(config.upsample_rates)


def build(
    weights: Scope, config: BigVGANConfig, precision: Precision, calibration: Sequence[Array] = ()
) -> GraphBuilder:
    """The vocoder graph.

    Inputs: `mel` float32 [1, mel, T], natural logarithm; `context` int64 [2], how many of the T frames on the left and
    on the right are context and give no samples (0: a true end of the utterance); `keep` int64 [levels], how many
    samples of context survive each level (`Reach.levels`, or less where speed matters more than the last decibel).
    Output: `samples` float32 [(T - context) * samples_per_frame] in [-1, 1].

    Args:
        weights: the part of the checkpoint below `PREFIX`.
        config: sizes.
        precision: unless it is fp32, the residual blocks' convolutions are INT8 (INT4 has no integer convolution);
            that needs `calibration`, without which they stay in float32.
        calibration: mels of speech, float32 [frames, mel_dim] (the voices' reference mels); the float32 graph runs over
            them here and now, from a temporary folder.

    Raises:
        CheckpointError: the config describes up-samplers whose output is no multiple of their rate.
    """
    for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        if (kernel - rate) % 2:
            raise CheckpointError(
                f"bigvgan_config has an up-sampler of rate {rate} and kernel {kernel}; their difference must be even."
            )
    if precision.kind == "fp32" or not calibration:
        return _assemble(weights, config, _conv, Precision("fp32", precision.group_size))
    ranges = measure(
        lambda observed: _assemble(weights, config, observed, Precision("fp32")),
        _conv,
        len(config.upsample_rates),
        calibration,
    )
    return _assemble(weights, config, Int8(ranges), Precision("int8", precision.group_size))


def _assemble(weights: Scope, config: BigVGANConfig, dense: Convolution, precision: Precision) -> GraphBuilder:
    """The graph, with `dense` making the convolutions of the residual blocks."""
    g = GraphBuilder("bigvgan", precision)
    mel = g.input("mel", [1, config.mel_dim, "frames"])
    g.input("context", [2], "int64")
    g.input("keep", [len(config.upsample_rates)], "int64")
    x = _conv(g, _normalized(g, mel), weights.scope("conv_pre"), "/conv_pre", _PRE_KERNEL)
    window = _Window(g)
    blocks = len(config.resblock_kernel_sizes)
    shapes = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
    for level, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)):
        path = f"/levels.{level}"
        average = 1.0 if level == 0 else 1.0 / blocks
        x = _upsample(g, x, weights.scope(f"ups.{level}.0"), f"{path}/up", rate, kernel, average)
        window.scale(rate, path)
        branches = [
            _residual_block(
                g, x, weights.scope(f"resblocks.{level * blocks + index}"), f"{path}/{index}", size, dilations, dense
            )
            for index, (size, dilations) in enumerate(shapes)
        ]
        x = window.crop(g.op("Sum", branches, f"{path}/sum"), f"{path}/crop", level)
    x = _activation(g, x, weights.scope("activation_post"), "/activation_post", 1.0 / blocks)
    x = _conv(g, x, weights.scope("conv_post"), "/conv_post", _POST_KERNEL, bias=False)
    x = window.crop(x, "/crop", None)
    x = g.op("Clip", [x, g.const(-1.0), g.const(1.0)], "/clip")
    g.output(g.op("Reshape", [x, g.const([-1])], "/flat"), "samples", ["samples"])
    return g


def _normalized(g: GraphBuilder, mel: str) -> str:
    """Decibels over the reference level, from [min, 0] to [-1, 1], clipped; [1, mel, 1, T].

    The reference clamps the amplitude first; everything below that clamp lies below the last clip as well.
    """
    decibels = 20 / np.log(10)
    scale = 2 * decibels / -_MIN_DB
    offset = 2 * (-_REFERENCE_DB - _MIN_DB) / -_MIN_DB - 1
    x = g.op("Unsqueeze", [mel, g.const([2])], "/normalize/rows")
    x = g.op("Mul", [x, g.const(scale)], "/normalize/scale")
    x = g.op("Add", [x, g.const(offset)], "/normalize/offset")
    return g.op("Clip", [x, g.const(-1.0), g.const(1.0)], "/normalize")


def _conv(g: GraphBuilder, x: str, weights: Scope, name: str, kernel: int, dilation: int = 1, bias: bool = True) -> str:
    """A dense convolution over time, "same" length."""
    weight = weights("weight")
    outputs, inputs, taps = weight.shape
    if taps != kernel:
        raise CheckpointError(f"{weight.name} has {taps} taps, the config asks for {kernel}.")
    shape = (outputs, inputs, 1, taps)
    operands = [x, g.weight(weight.map(lambda w: w.reshape(shape), shape), f"{name}.weight")]
    if bias:
        operands.append(g.weight(weights("bias", (outputs,)), f"{name}.bias"))
    pad = (kernel - 1) * dilation // 2
    return g.op("Conv", operands, name, dilations=[1, dilation], pads=[0, pad, 0, pad], kernel_shape=[1, kernel])


def _upsample(g: GraphBuilder, x: str, weights: Scope, name: str, rate: int, kernel: int, scale: float) -> str:
    """A transposed convolution; its input is multiplied by `scale`."""
    weight = weights("weight")
    inputs, outputs, taps = weight.shape
    shape = (inputs, outputs, 1, taps)
    scaled = weight.map(lambda w: (w * np.float32(scale)).reshape(shape), shape)
    operands = [x, g.weight(scaled, f"{name}.weight"), g.weight(weights("bias", (outputs,)), f"{name}.bias")]
    pad = (kernel - rate) // 2
    return g.op("ConvTranspose", operands, name, strides=[1, rate], pads=[0, pad, 0, pad], kernel_shape=[1, kernel])


def _residual_block(
    g: GraphBuilder,
    x: str,
    weights: Scope,
    name: str,
    kernel: int,
    dilations: tuple[int, ...],
    dense: Convolution,
) -> str:
    """Reference: `Qwen2_5OmniAMPBlock`."""
    for index, dilation in enumerate(dilations):
        path = f"{name}/{index}"
        y = _activation(g, x, weights.scope(f"activations.{2 * index}"), f"{path}/act1")
        y = dense(g, y, weights.scope(f"convs1.{index}"), f"{path}/conv1", kernel, dilation)
        y = _activation(g, y, weights.scope(f"activations.{2 * index + 1}"), f"{path}/act2")
        y = dense(g, y, weights.scope(f"convs2.{index}"), f"{path}/conv2", kernel)
        x = g.op("Add", [x, y], path)
    return x


def low_pass() -> NDArray[np.float64]:
    """The 12-tap Kaiser-windowed sinc of both re-samplers (reference: `kaiser_sinc_filter1d` at ratio 2)."""
    attenuation = 2.285 * (_FILTER_TAPS // 2 - 1) * np.pi * 4 * _FILTER_HALF_WIDTH + 7.95
    # Kaiser's design formula for attenuations above 50 dB; this one is 51 dB.
    beta = 0.1102 * (attenuation - 8.7)
    time = np.arange(-_FILTER_TAPS // 2, _FILTER_TAPS // 2) + 0.5
    taps: NDArray[np.float64] = np.kaiser(_FILTER_TAPS, beta) * np.sinc(time / 2)
    taps /= taps.sum()
    return taps


def _up_kernel() -> NDArray[np.float64]:
    """[2, 7]: row 1 makes the even samples, row 0 the odd ones (the convolution's zero rows swap them)."""
    taps = low_pass()
    kernel = np.zeros((2, 2 * _PHASE_REACH + 1))
    for offset in range(-_PHASE_REACH, _PHASE_REACH):
        kernel[1, offset + _PHASE_REACH] = 2 * taps[5 - 2 * offset]
        kernel[0, offset + 1 + _PHASE_REACH] = 2 * taps[4 - 2 * offset]
    return kernel


def _down_kernel() -> NDArray[np.float64]:
    """[2, 7]: row 0 weighs the even samples, row 1 the odd ones."""
    taps = low_pass()
    kernel = np.zeros((2, 2 * _PHASE_REACH + 1))
    for offset in range(-_PHASE_REACH, _PHASE_REACH):
        kernel[0, offset + 1 + _PHASE_REACH] = taps[7 + 2 * offset]
        kernel[1, offset + _PHASE_REACH] = taps[6 + 2 * offset]
    return kernel


def sine_polynomial() -> NDArray[np.float64]:
    """Coefficients c of sin(pi r) = r * sum_i c[i] r^(2 i) on |r| <= 1/2."""
    # A truncated Chebyshev series errs evenly over the interval; interpolation of the same degree twice as much at its
    # ends, where the sine is largest.
    series = np.polynomial.Chebyshev.interpolate(lambda r: np.sin(np.pi * r), 3 * _SINE_DEGREE, [-0.5, 0.5])
    series = series.truncate(_SINE_DEGREE + 1)
    return np.asarray(series.convert(kind=np.polynomial.Polynomial).coef[1::2], np.float64)


def _activation(g: GraphBuilder, x: str, weights: Scope, name: str, scale: float = 1.0) -> str:
    """Snake-beta between a x2 up-sampler and a x2 down-sampler; `x` [1, C, 1, T] is multiplied by `scale` first.

    With y = a u / pi: u + sin^2(a u) / b = (pi / a) (y + a / (pi b) sin^2(pi y)), and sin^2(pi y) has period one.
    """
    alpha, beta = weights("act.alpha"), weights("act.beta")
    channels = alpha.shape[0]

    def frequency() -> NDArray[np.float64]:
        return np.exp(alpha.load().astype(np.float64))

    def per_channel(suffix: str, shape: tuple[int, ...], make: Callable[[], Array]) -> str:
        return g.weight(LazyTensor(name, shape, lambda start, stop: make()[start:stop]), f"{name}.{suffix}")

    def up() -> Array:
        return (frequency()[:, None, None, None] * (scale / np.pi) * _up_kernel()).astype(np.float32)

    def down() -> Array:
        return (np.pi / frequency()[:, None, None, None] * _down_kernel()).astype(np.float32)

    width = 2 * _PHASE_REACH + 1
    first = g.op("Slice", [x, g.const([0]), g.const([1]), g.const([3])], f"{name}/first")
    last = g.op("Slice", [x, g.const([-1]), g.const([np.iinfo(np.int64).max]), g.const([3])], f"{name}/last")
    padded = g.op("Concat", [first] * _PHASE_REACH + [x] + [last] * _PHASE_REACH, f"{name}/pad", axis=3)
    y = g.op(
        "Conv",
        [padded, per_channel("up", (channels, 1, 2, width), up)],
        f"{name}/up",
        group=channels,
        pads=[1, 0, 1, 0],
        kernel_shape=[2, width],
    )
    y = _snake(g, y, alpha, beta, name)
    # Beyond the ends the reference repeats the doubled signal's first and last sample: the first row's first and the
    # second row's last, in both rows.
    first = g.op("Slice", [y, g.const([0, 0]), g.const([1, 1]), g.const([2, 3])], f"{name}/snake/first")
    last = g.op(
        "Slice",
        [y, g.const([1, -1]), g.const([2, np.iinfo(np.int64).max]), g.const([2, 3])],
        f"{name}/snake/last",
    )
    shape = g.const([1, 1, 2, _PHASE_REACH])
    head = g.op("Expand", [first, shape], f"{name}/snake/head")
    tail = g.op("Expand", [last, shape], f"{name}/snake/tail")
    padded = g.op("Concat", [head, y, tail], f"{name}/snake/pad", axis=3)
    return g.op(
        "Conv",
        [padded, per_channel("down", (channels, 1, 2, width), down)],
        f"{name}/down",
        group=channels,
        kernel_shape=[2, width],
    )


def _snake(g: GraphBuilder, y: str, alpha: LazyTensor, beta: LazyTensor, name: str) -> str:
    """y + c sin^2(pi y) with c = a / (pi b) per channel; sqrt(c) is part of the polynomial's coefficients."""
    channels = alpha.shape[0]

    def coefficient(index: int) -> str:
        def make() -> Array:
            a = np.exp(alpha.load().astype(np.float64))
            b = np.exp(beta.load().astype(np.float64)) + _SNAKE_EPSILON
            values: Array = (np.sqrt(a / (np.pi * b)) * sine_polynomial()[index]).astype(np.float32)
            return values.reshape(1, channels, 1, 1)

        return g.weight(LazyTensor(name, (1, channels, 1, 1), lambda start, stop: make()), f"{name}.c{index}")

    rounding = g.const(_ROUNDING)
    whole = g.op("Add", [y, rounding], f"{name}/whole/a")
    whole = g.op("Sub", [whole, rounding], f"{name}/whole")
    r = g.op("Sub", [y, whole], f"{name}/r")
    square = g.op("Mul", [r, r], f"{name}/r2")
    degree = (_SINE_DEGREE - 1) // 2
    value = g.op("Mul", [square, coefficient(degree)], f"{name}/sine/{degree}")
    for index in range(degree - 1, -1, -1):
        value = g.op("Add", [value, coefficient(index)], f"{name}/sine/{index}/sum")
        value = g.op("Mul", [value, square if index else r], f"{name}/sine/{index}")
    value = g.op("Mul", [value, value], f"{name}/sine2")
    return g.op("Add", [y, value], f"{name}/snake")


class _Window:
    """The context that is left on each side of a signal, as int64 values of the graph, and the cuts."""

    def __init__(self, g: GraphBuilder) -> None:
        self._g = g
        self._context = "context"

    def scale(self, rate: int, name: str) -> None:
        """The signal has been up-sampled by `rate`."""
        self._context = self._g.op("Mul", [self._context, self._g.const([rate])], f"{name}/context")

    def crop(self, x: str, name: str, level: int | None) -> str:
        """`x` [1, C, 1, T] without the context that `keep[level]` does not ask for (None: without any)."""
        g = self._g
        kept = g.op("Gather", ["keep", g.const([level])], f"{name}/keep") if level is not None else g.const([0])
        remaining = g.op("Min", [self._context, kept], f"{name}/remaining")
        surplus = g.op("Sub", [self._context, remaining], f"{name}/surplus")
        start = g.op("Slice", [surplus, g.const([0]), g.const([1])], f"{name}/start")
        right = g.op("Slice", [surplus, g.const([1]), g.const([2])], f"{name}/right")
        length = g.op("Shape", [x], f"{name}/length", start=3, end=4)
        stop = g.op("Sub", [length, right], f"{name}/stop")
        self._context = remaining
        return g.op("Slice", [x, start, stop, g.const([3])], name)
