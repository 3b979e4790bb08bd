"""INT8 convolutions over time, with weights in the layout of our kernel (`kernels/panel_conv.c`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omni_export.graph.function import Function

# The kernel's layout: outputs side by side, and inputs of each.
PANEL = 12
QUAD = 4


def panels_shape(channels: int, taps: int) -> tuple[int, int, int, int, int]:
    """The shape of `panels_of` for weights [channels, channels, taps]."""
    return -(-channels // PANEL), -(-channels // QUAD), taps, PANEL, QUAD


def panels_of(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Weights int8 [C, C, taps] as [panels, quads, taps, PANEL, QUAD], padded with zeros."""
    channels, _, taps = codes.shape
    panels, quads, *_ = panels_shape(channels, taps)
    padded = np.zeros((panels * PANEL, quads * QUAD, taps), np.int8)
    padded[:channels, :channels] = codes
    return np.ascontiguousarray(padded.reshape(panels, PANEL, quads, QUAD, taps).transpose(0, 2, 4, 1, 3))


def panel_conv(added: bool) -> Function:
    """The operator `PanelConv`, or with `added` `PanelConvAdd`, defined by `QLinearConv`.

    The inputs are described in the kernel. It reads the attribute `dilation`; the definition reads `dilations` and
    `pads`, which state the same.
    """
    f = Function("PanelConvAdd" if added else "PanelConv")
    x, x_scale, x_zero, panels, _sums, scales, zeros, y_scale, y_zero, bias = (f.input() for _ in range(10))
    f.attribute("dilation")
    ordered = f.op("Transpose", [panels], perm=[0, 3, 1, 4, 2])
    inputs = f.op("Mul", [f.op("Shape", [panels], start=1, end=2), f.const([QUAD])])
    taps = f.op("Shape", [panels], start=2, end=3)
    shape = f.op("Concat", [f.const([-1]), inputs, f.const([1]), taps], axis=0)
    channels = f.op("Shape", [scales])
    ends = f.op("Concat", [channels, channels], axis=0)
    weight = f.op("Slice", [f.op("Reshape", [ordered, shape]), f.const([0, 0]), ends, f.const([0, 1])])
    y = f.op(
        "QLinearConv",
        [x, x_scale, x_zero, weight, scales, zeros, y_scale, y_zero, bias],
        given={"dilations": tuple, "pads": tuple},
    )
    if added:
        y = f.op("Add", [f.input(), f.op("DequantizeLinear", [y, y_scale, y_zero])])
    f.output(y)
    return f
