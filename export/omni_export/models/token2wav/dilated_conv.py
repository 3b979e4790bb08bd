"""Dilated convolutions over time with 16-bit weights (kernel: `runtime/omni_edge/backend/kernels/dilated_conv.c`).

A scale for each output and 16 bits leave 85 dB and more. Activations stay in float32: nothing is calibrated.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.builder import GraphBuilder
from omni_export.graph.function import Function
from omni_quant import quantize_channelwise

_BITS = 16


def dilated_conv(
    g: GraphBuilder, x: str, weight: LazyTensor, bias: LazyTensor, name: str, *, dilation: int, rest: str | None = None
) -> str:
    """A convolution whose length stays the same.

    Args:
        g: the graph.
        x: float32 [1, inputs, 1, reach + T], with reach = (taps - 1) dilation / 2 samples before the signal.
        weight: [outputs, inputs, taps]; taps is odd.
        bias: [outputs].
        name: path of the node.
        dilation: distance between taps, in samples.
        rest: float32 [1, outputs, 1, T], which the result is added to.

    Returns:
        float32 [1, outputs, 1, T].
    """
    outputs, inputs, taps = weight.shape

    def produce() -> Iterable[NDArray[np.generic]]:
        result = quantize_channelwise(weight.load(), bits=_BITS)
        return [np.ascontiguousarray(result.codes.transpose(0, 2, 1)), result.scales]

    codes, scales = g.computed(
        [
            (f"{name}.weight_S16", np.dtype(np.int16), (outputs, taps, inputs)),
            (f"{name}.weight_scales", np.dtype(np.float32), (outputs,)),
        ],
        produce,
    )
    operands = [x, codes, scales, g.weight(bias, f"{name}.bias")]
    return g.call(
        _function(added=rest is not None),
        [*operands, rest] if rest else operands,
        name,
        dilation=dilation,
        dilations=[1, dilation],
        pads=[0, 0, 0, (taps - 1) * dilation // 2],
    )[0]


def _function(added: bool) -> Function:
    """The operator `DilatedConv`, or with `added` `DilatedConvAdd`. The kernel describes its inputs.

    The kernel reads the attribute `dilation`; the definition reads `dilations` and `pads`, which state the same.
    """
    f = Function("DilatedConvAdd" if added else "DilatedConv")
    x, codes, scales, bias = (f.input() for _ in range(4))
    f.attribute("dilation")
    weight = f.op("Mul", [f.op("Cast", [codes], to=TensorProto.FLOAT), f.op("Unsqueeze", [scales, f.const([1, 2])])])
    weight = f.op("Unsqueeze", [f.op("Transpose", [weight], perm=[0, 2, 1]), f.const([2])])
    y = f.op("Conv", [x, weight, bias], given={"dilations": tuple, "pads": tuple})
    if added:
        y = f.op("Add", [f.input(), y])
    f.output(y)
    return f
