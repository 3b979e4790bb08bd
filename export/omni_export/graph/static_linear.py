"""The nodes that multiply by a quantized matrix in a static graph, for an NPU's compiler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from omni_export.graph.linear import Nodes, product

if TYPE_CHECKING:
    from omni_export.graph.builder import GraphBuilder
    from omni_quant.precision import WeightFormat

# The code of 0 in a matrix without zero points.
_MIDDLE = 8.0


def static_linear(
    graph: GraphBuilder,
    nodes: Nodes,
    x: str,
    matrix: Sequence[str],
    shape: tuple[int, ...],
    weights: WeightFormat,
) -> str:
    """x @ weight.T for weights with a scale per group; returns the product.

    Zero points are left out of MatMulNBits, because the NPU adds them up over the whole row in float16: the more the
    activations' mean is off 0, the more that costs. They are a product of their own, of the groups' sums.

    Args:
        graph: holds the constants.
        nodes: where the nodes are put.
        x: float32 [1, S, in].
        matrix: the weight's initializers, as `GraphBuilder.matrix` returns them.
        shape: the weight's, [out, in].
        weights: the weight's format.
    """
    n, columns = shape
    group = weights.group_size
    blocks = -(-columns // group)
    if columns % group:
        # The packed weight has whole groups.
        x = nodes.op("Pad", [x, graph.const([0, 0, 0, 0, 0, -columns % group])])
    packed, scales, *zero_points = matrix
    y = product(nodes, x, [packed, scales], shape, weights)
    if not zero_points:
        return y
    groups = graph.op("Reshape", [x, graph.const([1, -1, blocks, group])], f"{packed}/groups")
    sums = graph.op("ReduceSum", [groups, graph.const([-1])], f"{packed}/groups", keepdims=0)
    offsets = _offsets(graph, scales, zero_points[0], (n, blocks))
    return graph.op("Add", [y, graph.op("MatMul", [sums, offsets], f"{packed}/offset")], f"{packed}/offset")


def _offsets(graph: GraphBuilder, scales: str, zero_points: str, shape: tuple[int, int]) -> str:
    """What a group's sum is multiplied by, float32 [blocks, out]; onnxruntime computes it when it loads the graph."""
    path, (n, blocks) = f"{zero_points}/offsets", shape
    nibbles = [
        graph.op("BitwiseAnd", [zero_points, graph.const(np.array(15, np.uint8))], f"{path}/even"),
        graph.op("BitShift", [zero_points, graph.const(np.array(4, np.uint8))], f"{path}/odd", direction="RIGHT"),
    ]
    columns = [
        graph.op("Unsqueeze", [nibble, graph.const([-1])], f"{path}/{index}") for index, nibble in enumerate(nibbles)
    ]
    codes = graph.op("Concat", columns, path, axis=-1)
    codes = graph.op("Reshape", [codes, graph.const([n, -1])], path)
    codes = graph.op("Slice", [codes, *(graph.const([value]) for value in (0, blocks, 1))], path)
    distances = graph.op("Sub", [graph.const(_MIDDLE), graph.op("Cast", [codes], path, to=TensorProto.FLOAT)], path)
    scale = graph.op("Cast", [scales], f"{path}/scales", to=TensorProto.FLOAT)
    return graph.op("Transpose", [graph.op("Mul", [distances, scale], path)], path, perm=[1, 0])
