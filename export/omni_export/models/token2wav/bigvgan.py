"""token2wav's second half: BigVGAN, log-mel frames to samples (reference: `Qwen2_5OmniToken2WavBigVGANModel`).

The graph equals the reference to rounding (98 dB and above). Activations, most of the nodes, are operators of our own
(`snake`). The division by the number of residual blocks is part of the next layer's weights.

To the left, every filter continues from the previous run (`stream_state`). To the right, a run looks ahead at some
frames; each level cuts them to what later levels can still see.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import BigVGANConfig
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.models.token2wav.bigvgan_residual import Unit
from omni_export.models.token2wav.dilated_conv import dilated_conv
from omni_export.models.token2wav.snake import ACTIVATION_REACH, activation
from omni_export.models.token2wav.stream_state import Boundary, StreamState
from omni_quant.policy import formats
from omni_quant.precision import Kind, Precision

ROLE = "bigvgan"
PREFIX = "token2wav.code2wav_bigvgan_model"

# Constants of the reference's code that its config does not carry.
_PRE_KERNEL = 7
_POST_KERNEL = 7
_MIN_DB = -115.0
_REFERENCE_DB = 20.0


@dataclass(frozen=True)
class Reach:
    """The look-ahead with which a run equals the whole utterance.

    Attributes:
        frames: mel frames.
        levels: samples that each level must pass on, at that level's rate.
    """

    frames: int
    levels: tuple[int, ...]

    @classmethod
    def from_config(cls, config: BigVGANConfig) -> Reach:
        """The nominal receptive field; the outermost taps are so small that half of it gives 100 dB."""
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
    """Audio samples per mel frame."""
    return prod(config.upsample_rates)


def build(weights: Scope, config: BigVGANConfig, precision: Precision) -> GraphBuilder:
    """The graph `bigvgan`.

    Inputs:
        mel: float32 [1, mel, T], natural logarithm.
        ahead: int64 [1], look-ahead frames at the end of the T, which give no samples; 0: the utterance ends here.
        keep: int64 [levels], look-ahead samples that each level passes on: `Reach.levels`, or fewer, which is faster
            and costs some decibels.
        begin: bool [1], the utterance begins here.
        state.<i>: float32, `next_state.<i>` of the previous run; zeros at the beginning.

    Outputs:
        samples: float32 [(T - ahead) * samples_per_frame] in [-1, 1].
        next_state.<i>: float32, the state after these T - ahead frames.

    Args:
        weights: the part of the checkpoint below `PREFIX`.
        config: sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.

    Raises:
        CheckpointError: an up-sampler's output is no multiple of its rate.
    """
    for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        if (kernel - rate) % 2:
            raise CheckpointError(
                f"bigvgan_config has an up-sampler of rate {rate} and kernel {kernel}; their difference must be even."
            )
    parts = formats(ROLE, precision)
    residual = float32_unit if parts["residual_blocks"].kind is Kind.FP32 else int16_unit
    g = GraphBuilder(ROLE, parts)
    mel = g.input("mel", [1, config.mel_dim, "frames"])
    boundary = Boundary(g, g.input("ahead", [1], "int64"))
    g.input("keep", [len(config.upsample_rates)], "int64")
    g.input("begin", [1], "bool")
    signals = 0

    def signal(x: str, channels: int, path: str) -> StreamState:
        nonlocal signals
        boundary.at(x, path)
        signals += 1
        return StreamState(g, boundary, signals - 1, channels)

    channels = config.upsample_initial_channel
    x = _normalized(g, mel)
    state = signal(x, config.mel_dim, "/normalize")
    x = convolution(g, x, state, weights.scope("conv_pre"), "/conv_pre", _PRE_KERNEL)
    state.close()
    state = signal(x, channels, "/conv_pre")
    blocks = len(config.resblock_kernel_sizes)
    shapes = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
    for level, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)):
        path = f"/levels.{level}"
        average = 1.0 if level == 0 else 1.0 / blocks
        x = _upsample(g, x, state, weights.scope(f"ups.{level}.0"), f"{path}/up", rate, kernel, average)
        state.close()
        channels //= 2
        boundary.scale(rate, path)
        state = signal(x, channels, path)
        branches = []
        for block, (size, dilations) in enumerate(shapes):
            scope, y = weights.scope(f"resblocks.{level * blocks + block}"), x
            for index, dilation in enumerate(dilations):
                y = residual(g, y, state, Unit(scope, index, f"{path}/{block}/{index}", size, dilation))
            branches.append(y)
        state.close()
        keep = g.op("Gather", ["keep", g.const([level])], f"{path}/keep")
        x = boundary.crop(g.op("Sum", branches, f"{path}/sum"), keep, f"{path}/crop")
        state = signal(x, channels, f"{path}/cropped")
    x = g.op("Mul", [x, g.const(1.0 / blocks)], "/average")
    x = activation(g, x, state, "begin", weights.scope("activation_post"), "/activation_post")
    x = convolution(g, x, state, weights.scope("conv_post"), "/conv_post", _POST_KERNEL, bias=False)
    state.close()
    x = boundary.crop(x, None, "/crop")
    x = g.op("Clip", [x, g.const(-1.0), g.const(1.0)], "/clip")
    g.output(g.op("Reshape", [x, g.const([-1])], "/flat"), "samples", ["samples"])
    return g


def _normalized(g: GraphBuilder, mel: str) -> str:
    """Decibels over the reference level, mapped from [min, 0] to [-1, 1] and clipped: [1, mel, 1, T].

    The reference clamps the amplitude first. Everything below that clamp lies below the last clip as well.
    """
    decibels = 20 / np.log(10)
    scale = 2 * decibels / -_MIN_DB
    offset = 2 * (-_REFERENCE_DB - _MIN_DB) / -_MIN_DB - 1
    x = g.op("Unsqueeze", [mel, g.const([2])], "/normalize/rows")
    x = g.op("Mul", [x, g.const(scale)], "/normalize/scale")
    x = g.op("Add", [x, g.const(offset)], "/normalize/offset")
    return g.op("Clip", [x, g.const(-1.0), g.const(1.0)], "/normalize")


def convolution(
    g: GraphBuilder,
    x: str,
    state: StreamState,
    weights: Scope,
    name: str,
    kernel: int,
    dilation: int = 1,
    bias: bool = True,
) -> str:
    """A dense float32 convolution over time; the length stays the same."""
    weight = weights_of(weights, kernel)
    outputs, inputs, taps = weight.shape
    shape = (outputs, inputs, 1, taps)
    reach = (kernel - 1) * dilation // 2
    operands = [
        state.extend(x, reach, name),
        g.weight(weight.map(lambda w: w.reshape(shape), shape), f"{name}.weight"),
    ]
    if bias:
        operands.append(g.weight(weights("bias", (outputs,)), f"{name}.bias"))
    return g.op("Conv", operands, name, dilations=[1, dilation], pads=[0, 0, 0, reach], kernel_shape=[1, kernel])


def weights_of(weights: Scope, kernel: int) -> LazyTensor:
    """A convolution's weight [outputs, inputs, kernel].

    Raises:
        CheckpointError: it has another number of taps.
    """
    weight = weights("weight")
    if weight.shape[-1] != kernel:
        raise CheckpointError(f"{weight.name} has {weight.shape[-1]} taps, the config asks for {kernel}.")
    return weight


def _upsample(
    g: GraphBuilder, x: str, state: StreamState, weights: Scope, name: str, rate: int, kernel: int, scale: float
) -> str:
    """A transposed convolution; its input is multiplied by `scale`."""
    weight = weights("weight")
    inputs, outputs, taps = weight.shape
    shape = (inputs, outputs, 1, taps)
    scaled = weight.map(lambda w: (w * np.float32(scale)).reshape(shape), shape)
    pad = (kernel - rate) // 2
    reach = (kernel - 1 - pad) // rate
    operands = [
        state.extend(x, reach, name),
        g.weight(scaled, f"{name}.weight"),
        g.weight(weights("bias", (outputs,)), f"{name}.bias"),
    ]
    pads = [0, pad + reach * rate, 0, pad]
    return g.op("ConvTranspose", operands, name, strides=[1, rate], pads=pads, kernel_shape=[1, kernel])


def float32_unit(g: GraphBuilder, x: str, state: StreamState, unit: Unit) -> str:
    """The nodes of a residual unit in float32; returns `x` plus the unit's output."""
    y = x
    for conv in unit.convolutions():
        y = activation(g, y, state, "begin", conv.activation, conv.activation_path)
        y = convolution(g, y, state, conv.convolution, conv.path, conv.taps, conv.dilation)
    return g.op("Add", [x, y], unit.path)


def int16_unit(g: GraphBuilder, x: str, state: StreamState, unit: Unit) -> str:
    """The nodes of a residual unit with 16-bit weights; returns `x` plus the unit's output."""
    y, convolutions = x, list(unit.convolutions())
    for conv in convolutions:
        y = activation(g, y, state, "begin", conv.activation, conv.activation_path)
        y = dilated_conv(
            g,
            state.extend(y, conv.reach, conv.path),
            weights_of(conv.convolution, conv.taps),
            conv.convolution("bias"),
            conv.path,
            dilation=conv.dilation,
            rest=x if conv is convolutions[-1] else None,
        )
    return y
