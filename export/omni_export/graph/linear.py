"""The nodes that multiply by a matrix, for each format of its weights: in a graph as in a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from onnx import TensorProto

from omni_export.graph.function import CONTRIB, Function
from omni_quant.policy import has_compiled_operator
from omni_quant.precision import Activations, Kind, WeightFormat

# The accuracy_level of MatMulNBits, which says what it does with its activations.
_ACCURACY_LEVELS = {Activations.FLOAT32: 1, Activations.INT8_PER_GROUP: 4}
# The place of the bias among the inputs of MatMulNBits.
_BIAS_INPUT = 5
_SIZES = MappingProxyType(dict.fromkeys(("K", "N", "bits", "block_size"), int))
# The inputs of `LinearNBitsF16` for its matrix: packed weight, scales, zero points.
MATRIX_INPUTS = 3


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
    sizes: dict[str, Any] = {"K": k, "N": n, "bits": weights.kind.bits, "block_size": weights.group_size}
    if not has_compiled_operator(weights):
        return _product(nodes, x, matrix, bias, weights.activations, weights.float16_scales, sizes)
    if weights.float16_scales:
        return nodes.call(_linear_nbits_f16(), _f16_inputs(x, matrix, bias), **sizes)[0]
    return nodes.call(_linear_nbits(bool(bias)), [x, *matrix, bias] if bias else [x, *matrix], **sizes)[0]


def linear_in_function(f: Function, x: str, matrix: Sequence[str], bias: str, shape: tuple[int, int], name: str) -> str:
    """The operator `LinearNBitsF16` in a function whose calls set the matrix's format; returns the product.

    Args:
        f: the function; it gets the attributes `{name}_bits` and `{name}_block_size`.
        x: float32 [..., in].
        matrix: the function's inputs for `MATRIX_INPUTS` tensors.
        bias: float32 [out]; "" is no bias.
        shape: the weight's, [out, in].
        name: of the matrix.
    """
    n, k = shape
    given = {size: (f"{name}_{size}", int) for size in ("bits", "block_size")}
    return f.call(_linear_nbits_f16(), _f16_inputs(x, matrix, bias), given=given, K=k, N=n)[0]


def product(nodes: Nodes, x: str, matrix: Sequence[str], shape: tuple[int, ...], weights: WeightFormat) -> str:
    """x @ weight.T for weights with a scale per group, by MatMulNBits with activations as they are.

    Args:
        nodes: where the nodes are put.
        x: float32 [..., in], padded to whole groups.
        matrix: the weight's initializers, as `GraphBuilder.matrix` returns them.
        shape: the weight's, [out, in].
        weights: the weight's format.
    """
    n, k = shape
    group = weights.group_size
    sizes = {"K": -(-k // group) * group, "N": n, "bits": weights.kind.bits, "block_size": group}
    return _product(nodes, x, matrix, "", Activations.FLOAT32, weights.float16_scales, sizes)


def _f16_inputs(x: str, matrix: Sequence[str], bias: str) -> list[str]:
    inputs = [x, *matrix, *[""] * (MATRIX_INPUTS - len(matrix)), bias]
    while not inputs[-1]:
        inputs.pop()
    return inputs


def _product(
    nodes: Nodes,
    x: str,
    matrix: Sequence[str],
    bias: str,
    activations: Activations,
    float16_scales: bool,
    attributes: Mapping[str, Any],
) -> str:
    """The standard operator: MatMulNBits, whose scales have the type of its activations."""
    packed, scales, *zero_points = matrix
    if float16_scales:
        scales = nodes.op("Cast", [scales], to=TensorProto.FLOAT)
    inputs = [x, packed, scales, *zero_points]
    if bias:
        inputs += [""] * (_BIAS_INPUT - len(inputs)) + [bias]
    level = _ACCURACY_LEVELS[activations]
    return nodes.op("MatMulNBits", inputs, domain=CONTRIB, accuracy_level=level, **attributes)


def _linear_nbits_f16() -> Function:
    """The operator `LinearNBitsF16`: a linear layer with activations in INT8 and scales in float16.

    Inputs: x, packed weight, scales, zero points (optional), bias (optional). Output: x @ weight.T + bias.
    """
    f = Function("LinearNBitsF16")
    x, *matrix, bias = (f.input() for _ in range(MATRIX_INPUTS + 2))
    f.output(_product(f, x, matrix, bias, Activations.INT8_PER_GROUP, True, {"given": _SIZES}))
    return f


def _linear_nbits(bias: bool) -> Function:
    """The operators `LinearNBits` and, with a bias, `LinearNBitsBias`: the same with scales in float32.

    Inputs: x, packed weight, scales and, with `bias`, the bias. Output: x @ weight.T + bias.
    """
    f = Function("LinearNBitsBias" if bias else "LinearNBits")
    x, *matrix = (f.input() for _ in range(3))
    bias_name = f.input() if bias else ""
    f.output(_product(f, x, matrix, bias_name, Activations.INT8_PER_GROUP, False, {"given": _SIZES}))
    return f
