"""BigVGAN's anti-aliased activation as nodes: up-sampling by two, snake-beta, down-sampling by two.

Each activation is one call of a function that is defined here. The two phases of the doubled signal are two rows of one
tensor [1, channels, 2, time]. So both filters are ordinary depthwise convolutions over `time`, and nothing is
interleaved. sin^2 is a polynomial after range reduction: the Sin kernel runs on one core, at a twentieth of a product's
speed. The factors a/pi and pi/a of snake's frequency `a` are part of the filters before and after it. onnxruntime
computes these filters once, when it loads the graph. `runtime/omni_edge/backend/kernels/snake.c` is the kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.graph.function import Function
from omni_export.models.token2wav.stream_state import StreamState

Array = NDArray[np.float32]

# Constants of the reference's code that its config does not carry.
_SNAKE_EPSILON = 1e-9
_FILTER_TAPS = 12
_FILTER_HALF_WIDTH = 0.3
# Each phase of the doubled signal sees three samples on either side; up and down together see six.
_PHASE_REACH = 3
ACTIVATION_REACH = 2 * _PHASE_REACH
# Samples of the signal and of both phases of the doubled one that precede a run.
_PAST = 3 * _PHASE_REACH
# Adding and subtracting 1.5 * 2^23 rounds a float32 to the nearest integer (half of Round's cost).
_ROUNDING = 12_582_912.0
# The degree of the polynomial for sin(pi r) on |r| <= 1/2, which is within 6.4e-7.
_DEGREE = 7


def low_pass() -> NDArray[np.float64]:
    """The 12-tap Kaiser-windowed sinc of both re-samplers (reference: `kaiser_sinc_filter1d` at ratio 2)."""
    attenuation = 2.285 * (_FILTER_TAPS // 2 - 1) * np.pi * 4 * _FILTER_HALF_WIDTH + 7.95
    # Kaiser's design formula for attenuations above 50 dB; this one is 51 dB.
    beta = 0.1102 * (attenuation - 8.7)
    time = np.arange(-_FILTER_TAPS // 2, _FILTER_TAPS // 2) + 0.5
    taps: NDArray[np.float64] = np.kaiser(_FILTER_TAPS, beta) * np.sinc(time / 2)
    taps /= taps.sum()
    return taps


def up() -> NDArray[np.float64]:
    """The up-sampling filter [2, 7]: row 1 gives even samples, row 0 odd ones; zero rows of the input swap them."""
    taps = low_pass()
    kernel = np.zeros((2, 2 * _PHASE_REACH + 1))
    for offset in range(-_PHASE_REACH, _PHASE_REACH):
        kernel[1, offset + _PHASE_REACH] = 2 * taps[5 - 2 * offset]
        kernel[0, offset + 1 + _PHASE_REACH] = 2 * taps[4 - 2 * offset]
    return kernel


def down() -> NDArray[np.float64]:
    """The down-sampling filter [2, 7]: row 0 weighs the even samples, row 1 the odd ones."""
    taps = low_pass()
    kernel = np.zeros((2, 2 * _PHASE_REACH + 1))
    for offset in range(-_PHASE_REACH, _PHASE_REACH):
        kernel[0, offset + 1 + _PHASE_REACH] = taps[7 + 2 * offset]
        kernel[1, offset + _PHASE_REACH] = taps[6 + 2 * offset]
    return kernel


def sine_polynomial() -> NDArray[np.float64]:
    """Coefficients c of sin(pi r) = r * sum_i c[i] r^(2 i) on |r| <= 1/2."""
    # A truncated Chebyshev series has an even error over the interval. Interpolation of the same degree has twice as
    # much at the ends, where the sine is largest.
    series = np.polynomial.Chebyshev.interpolate(lambda r: np.sin(np.pi * r), 3 * _DEGREE, [-0.5, 0.5])
    series = series.truncate(_DEGREE + 1)
    return np.asarray(series.convert(kind=np.polynomial.Polynomial).coef[1::2], np.float64)


def activation(g: GraphBuilder, x: str, state: StreamState, begin: str, weights: Scope, name: str) -> str:
    """Snake-beta between a x2 up-sampler and a x2 down-sampler (reference: `Qwen2_5OmniAntiAliasedActivation1d`).

    Args:
        g: the graph.
        x: float32 [1, C, 1, T].
        state: of the signal, which continues it to the left.
        begin: bool [1], true where the signal begins: it is then continued as the reference does at an end.
        weights: `act.alpha` and `act.beta`, both logarithms.
        name: path of the node.

    Returns:
        float32 [1, C, 1, T].
    """
    alpha, beta = weights("act.alpha"), weights("act.beta")
    channels = alpha.shape[0]

    def cycles() -> NDArray[np.float64]:
        return np.exp(alpha.load().astype(np.float64)) / np.pi

    def root() -> NDArray[np.float64]:
        values: NDArray[np.float64] = np.sqrt(cycles() / (np.exp(beta.load().astype(np.float64)) + _SNAKE_EPSILON))
        return values

    def per_channel(make: Callable[[], NDArray[np.float64]], shape: tuple[int, ...], path: str) -> str:
        def read(start: int, stop: int) -> Array:
            return make().astype(np.float32).reshape(shape)[start:stop]

        return g.weight(LazyTensor(name, shape, read), path)

    inputs = [
        x,
        state.take(_PAST, name),
        begin,
        state.boundary.stop,
        per_channel(cycles, (channels, 1, 1, 1), f"{name}.cycles"),
        per_channel(root, (1, channels, 1, 1), f"{name}.root"),
        g.const(up().astype(np.float32)[None, None], "snake/up"),
        g.const(down().astype(np.float32)[None, None], "snake/down"),
    ]
    y, past = g.call(_function(), inputs, name, group=channels)
    state.keep(past)
    return y


def _function() -> Function:
    """The operator `Snake`. Its inputs and outputs are described in `kernels/snake.c`.

    With y = cycles u, cycles = a / pi: u + sin^2(a u) / b = (y + root^2 sin^2(pi y)) / cycles, and sin^2(pi y) has
    period one.
    """
    f = Function("Snake")
    x, past, begin, stop, cycles, root, up, down = (f.input() for _ in range(8))
    end, width = np.iinfo(np.int64).max, 2 * _PHASE_REACH + 1

    def cut(value: str, start: int, stop: int, axis: int = 3) -> str:
        return f.op("Slice", [value, f.const([start]), f.const([stop]), f.const([axis])])

    def finished(extended: str, samples: str) -> str:
        return f.op("Slice", [extended, stop, f.op("Add", [stop, samples]), f.const([3])])

    three = f.const([_PHASE_REACH])

    left = f.op("Where", [begin, cut(x, 0, 1), cut(past, 0, _PHASE_REACH)])
    signal = f.op("Concat", [left, x] + [cut(x, -1, end)] * _PHASE_REACH, axis=3)

    def filtered(extended: str, kernel: str, rows: int) -> str:
        pads = [rows, 0, rows, 0]
        return f.op("Conv", [extended, kernel], given={"group": int}, pads=pads, kernel_shape=[2, width])

    # The zero rows around the signal make the kernel's second row that of the first phase.
    y = _snake(f, filtered(signal, f.op("Mul", [cycles, up]), 1), root)
    # At the ends the reference repeats the doubled signal's first and last sample, in both phases: the first phase's
    # first and the second phase's last.
    rows = f.op("Reshape", [cut(past, _PHASE_REACH, _PAST), f.const([1, 0, 2, _PHASE_REACH])])
    left = f.op("Where", [begin, cut(cut(y, 0, 1), 0, 1, 2), rows])
    last = cut(cut(y, -1, end), -1, end, 2)
    doubled = f.op("Concat", [left, y, f.op("Expand", [last, f.const([1, 1, 2, _PHASE_REACH])])], axis=3)
    y = filtered(doubled, f.op("Div", [down, cycles]), 0)
    kept = [
        finished(signal, three),
        f.op("Reshape", [finished(doubled, three), f.const([1, 0, 1, 2 * _PHASE_REACH])]),
    ]
    f.output(y)
    f.output(f.op("Concat", kept, axis=3))
    return f


def _snake(f: Function, y: str, root: str) -> str:
    """y + root^2 sin^2(pi y). The root is part of the polynomial's coefficients."""

    polynomial = sine_polynomial()

    def coefficient(index: int) -> str:
        return f.op("Mul", [root, f.const(polynomial[index])])

    rounding = f.const(_ROUNDING)
    whole = f.op("Sub", [f.op("Add", [y, rounding]), rounding])
    r = f.op("Sub", [y, whole])
    square = f.op("Mul", [r, r])
    value = f.op("Mul", [square, coefficient(-1)])
    for index in range(len(polynomial) - 2, -1, -1):
        value = f.op("Mul", [f.op("Add", [value, coefficient(index)]), square if index else r])
    return f.op("Add", [y, f.op("Mul", [value, value])])
