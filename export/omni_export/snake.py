"""BigVGAN's anti-aliased activation as nodes: up-sampling by two, snake-beta, down-sampling by two.

The two phases of the doubled signal are two rows of one tensor [1, channels, 2, time], so that both filters are
ordinary depthwise convolutions over `time` and nothing is interleaved. sin^2 is a polynomial after range reduction: the
Sin kernel runs on one core at a twentieth of a product's speed. a/pi and pi/a of snake's frequency `a` live in the
filters before and after it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from omni_export.carried import Carried
from omni_export.checkpoint import Scope
from omni_export.graph import GraphBuilder
from omni_export.lazy import LazyTensor

Array = NDArray[np.float32]

# Constants of the reference's code that its config does not carry.
_SNAKE_EPSILON = 1e-9
_FILTER_TAPS = 12
_FILTER_HALF_WIDTH = 0.3
# Each phase of the doubled signal sees three samples to either side; up and down together six.
_PHASE_REACH = 3
ACTIVATION_REACH = 2 * _PHASE_REACH
# Adding and subtracting 1.5 * 2^23 rounds a float32 to the nearest integer (half of Round's cost).
_ROUNDING = 12_582_912.0
# Degrees of the polynomial for sin(pi r) on |r| <= 1/2: within 6.4e-7, and within 7e-5 with two operations less.
EXACT_DEGREE = 7
FAST_DEGREE = 5


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


def sine_polynomial(degree: int) -> NDArray[np.float64]:
    """Coefficients c of sin(pi r) = r * sum_i c[i] r^(2 i) on |r| <= 1/2."""
    # A truncated Chebyshev series errs evenly over the interval; interpolation of the same degree twice as much at its
    # ends, where the sine is largest.
    series = np.polynomial.Chebyshev.interpolate(lambda r: np.sin(np.pi * r), 3 * degree, [-0.5, 0.5])
    series = series.truncate(degree + 1)
    return np.asarray(series.convert(kind=np.polynomial.Polynomial).coef[1::2], np.float64)


def activation(
    g: GraphBuilder,
    x: str,
    carried: Carried,
    begin: str,
    weights: Scope,
    name: str,
    *,
    degree: int,
    scale: float = 1.0,
) -> str:
    """Snake-beta between a x2 up-sampler and a x2 down-sampler (reference: `Qwen2_5OmniAntiAliasedActivation1d`).

    `x` [1, C, 1, T] is multiplied by `scale` first; `weights` hold `act.alpha` and `act.beta`, both logarithms. To the
    left it is continued by what `carried` holds, or, where `begin` (bool [1]), as the reference does at an end.

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
    left = g.op("Where", [begin, first, carried.take(_PHASE_REACH, name)], f"{name}/left")
    padded = g.op("Concat", [left, x] + [last] * _PHASE_REACH, f"{name}/pad", axis=3)
    carried.keep(carried.boundary.before(padded, _PHASE_REACH, f"{name}/next"))
    y = g.op(
        "Conv",
        [padded, per_channel("up", (channels, 1, 2, width), up)],
        f"{name}/up",
        group=channels,
        pads=[1, 0, 1, 0],
        kernel_shape=[2, width],
    )
    y = _snake(g, y, alpha, beta, name, degree)
    # Beyond the ends the reference repeats the doubled signal's first and last sample: the first row's first and the
    # second row's last, in both rows.
    first = g.op("Slice", [y, g.const([0, 0]), g.const([1, 1]), g.const([2, 3])], f"{name}/snake/first")
    last = g.op(
        "Slice",
        [y, g.const([1, -1]), g.const([2, np.iinfo(np.int64).max]), g.const([2, 3])],
        f"{name}/snake/last",
    )
    state = carried.take(2 * _PHASE_REACH, f"{name}/snake")
    state = g.op("Reshape", [state, g.const([1, channels, 2, _PHASE_REACH])], f"{name}/snake/rows")
    left = g.op("Where", [begin, first, state], f"{name}/snake/left")
    tail = g.op("Expand", [last, g.const([1, 1, 2, _PHASE_REACH])], f"{name}/snake/tail")
    padded = g.op("Concat", [left, y, tail], f"{name}/snake/pad", axis=3)
    kept = carried.boundary.before(padded, _PHASE_REACH, f"{name}/snake/next")
    carried.keep(g.op("Reshape", [kept, g.const([1, channels, 1, 2 * _PHASE_REACH])], f"{name}/snake/kept"))
    return g.op(
        "Conv",
        [padded, per_channel("down", (channels, 1, 2, width), down)],
        f"{name}/down",
        group=channels,
        kernel_shape=[2, width],
    )


def _snake(g: GraphBuilder, y: str, alpha: LazyTensor, beta: LazyTensor, name: str, degree: int) -> str:
    """y + c sin^2(pi y) with c = a / (pi b) per channel; sqrt(c) is part of the polynomial's coefficients."""
    channels = alpha.shape[0]

    def coefficient(index: int) -> str:
        def make() -> Array:
            a = np.exp(alpha.load().astype(np.float64))
            b = np.exp(beta.load().astype(np.float64)) + _SNAKE_EPSILON
            values: Array = (np.sqrt(a / (np.pi * b)) * sine_polynomial(degree)[index]).astype(np.float32)
            return values.reshape(1, channels, 1, 1)

        return g.weight(LazyTensor(name, (1, channels, 1, 1), lambda start, stop: make()), f"{name}.c{index}")

    rounding = g.const(_ROUNDING)
    whole = g.op("Add", [y, rounding], f"{name}/whole/a")
    whole = g.op("Sub", [whole, rounding], f"{name}/whole")
    r = g.op("Sub", [y, whole], f"{name}/r")
    square = g.op("Mul", [r, r], f"{name}/r2")
    highest = (degree - 1) // 2
    value = g.op("Mul", [square, coefficient(highest)], f"{name}/sine/{highest}")
    for index in range(highest - 1, -1, -1):
        value = g.op("Add", [value, coefficient(index)], f"{name}/sine/{index}/sum")
        value = g.op("Mul", [value, square if index else r], f"{name}/sine/{index}")
    value = g.op("Mul", [value, value], f"{name}/sine2")
    return g.op("Add", [y, value], f"{name}/snake")
