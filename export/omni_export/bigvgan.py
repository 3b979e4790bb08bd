"""token2wav's second half: BigVGAN, log-mel frames to samples (reference: `Qwen2_5OmniToken2WavBigVGANModel`).

The function is the reference's to rounding (98 dB and above); the form is one a CPU likes: see `snake` for the
activations, which are most of the nodes. The division by the number of residual blocks lives in the next layer's
weights. A window of a stream carries context frames; after every level they are cut to what later levels can still see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from omni_edge.errors import CheckpointError
from omni_export.bigvgan_int8 import Convolution, Int8, measure
from omni_export.checkpoint import Scope
from omni_export.config import BigVGANConfig
from omni_export.graph import GraphBuilder, Precision
from omni_export.snake import ACTIVATION_REACH, activation

Array = NDArray[np.float32]

PREFIX = "token2wav.code2wav_bigvgan_model"

# Constants of the reference's code that its config does not carry.
_PRE_KERNEL = 7
_POST_KERNEL = 7
_MIN_DB = -115.0
_REFERENCE_DB = 20.0


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
        need = ACTIVATION_REACH + (_POST_KERNEL - 1) // 2
        levels = [need]
        for rate, kernel in list(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True))[::-1]:
            block = max(
                sum((size - 1) * dilation // 2 + (size - 1) // 2 + 2 * ACTIVATION_REACH for dilation in dilations)
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
    x = activation(g, x, weights.scope("activation_post"), "/activation_post", 1.0 / blocks)
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
        y = activation(g, x, weights.scope(f"activations.{2 * index}"), f"{path}/act1")
        y = dense(g, y, weights.scope(f"convs1.{index}"), f"{path}/conv1", kernel, dilation)
        y = activation(g, y, weights.scope(f"activations.{2 * index + 1}"), f"{path}/act2")
        y = dense(g, y, weights.scope(f"convs2.{index}"), f"{path}/conv2", kernel)
        x = g.op("Add", [x, y], path)
    return x


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
