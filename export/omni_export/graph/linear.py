"""The nodes that multiply by a matrix, for each format of its weights: in a graph as in a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from onnx import TensorProto

from omni_export.graph.function import CONTRIB, Function
from omni_quant.policy import has_compiled_operator
from omni_quant.precision import Activations, Kind, WeightFormat

# The accuracy_level of MatMulNBits, which says what it does with its activations.
_ACCURACY_LEVELS = {Activations.FLOAT32: 1, Activations.INT8_PER_GROUP: 4}
# The place of the bias among the inputs of MatMulNBits.
_BIAS_INPUT = 5


class Nodes(Protocol):
    """Where nodes are put: into a function, or at one place of a graph."""

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str: ...

    def call(self, function: Function, inputs: Sequence[str], **attributes: Any) -> list[str]: ...


def linear_nodes(
    nodes: Nodes, x: str, matrix: Sequence[str], bias: str, shape: tuple[int, ...], weights: WeightFormat
) -> str:
    """x @ weight.T + bias for weights in float32 or with a scale per group; returns the product.

    Args:
        nodes: where the nodes are put.
        x: float32 [..., in].
        matrix: the weight's initializers, as `GraphBuilder.matrix` returns them.
        bias: float32 [out]; "" is no bias.
        shape: the weight's, [out, in].
        weights: the weight's format.
    """
    if weights.kind is Kind.FP32:
        y = nodes.op("MatMul", [x, *matrix])
        return nodes.op("Add", [y, bias]) if bias else y
    n, k = shape
    inputs = [x, *matrix]
    sizes: dict[str, Any] = {"K": k, "N": n, "bits": weights.kind.bits, "block_size": weights.group_size}
    if has_compiled_operator(weights):
        return nodes.call(_linear_nbits(bool(bias)), [*inputs, bias] if bias else inputs, **sizes)[0]
    packed, scales, *zero_points = matrix
    if weights.float16_scales:
        scales = nodes.op("Cast", [scales], to=TensorProto.FLOAT)
    inputs = [x, packed, scales, *zero_points]
    if bias:
        inputs += [""] * (_BIAS_INPUT - len(inputs)) + [bias]
    level = _ACCURACY_LEVELS[weights.activations]
    return nodes.op("MatMulNBits", inputs, domain=CONTRIB, accuracy_level=level, **sizes)


def _linear_nbits(bias: bool) -> Function:
    """The operator `LinearNBits`: MatMulNBits with activations in INT8.

    Inputs: x, packed weight, scales and, with `bias`, the bias. Output: x @ weight.T + bias.
    """
    f = Function("LinearNBitsBias" if bias else "LinearNBits")
    inputs = [f.input(), f.input(), f.input()] + (["", "", f.input()] if bias else [])
    sizes = dict.fromkeys(("K", "N", "bits", "block_size"), int)
    level = _ACCURACY_LEVELS[Activations.INT8_PER_GROUP]
    f.output(f.op("MatMulNBits", inputs, domain=CONTRIB, given=sizes, accuracy_level=level))
    return f
