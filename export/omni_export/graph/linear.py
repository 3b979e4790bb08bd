"""How matrices are stored, and the nodes that multiply by them: in a graph as in a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from omni_export.graph.function import CONTRIB, Function

Kind = Literal["fp32", "int8", "int4"]

# The accuracy_level of MatMulNBits that quantizes the activations to INT8 per block as well: 2-3x faster than others on
# every CPU with integer dot products.
_INT8_ACTIVATIONS = 4
# Smaller groups than our operator takes are left to onnxruntime's.
_SMALLEST_KERNEL_GROUP = 32


@dataclass(frozen=True)
class Precision:
    """How the matrices of a graph are stored: float32, or INT8 / INT4 with one scale per `group_size` weights."""

    kind: Kind = "fp32"
    group_size: int = 128

    @property
    def bits(self) -> int:
        return {"fp32": 32, "int8": 8, "int4": 4}[self.kind]

    @property
    def has_kernel(self) -> bool:
        """Whether our own operators take such matrices."""
        return self.kind != "fp32" and self.group_size >= _SMALLEST_KERNEL_GROUP

    def __str__(self) -> str:
        return self.kind if self.kind == "fp32" else f"{self.kind} g{self.group_size}"


class Nodes(Protocol):
    """Where nodes are put: into a function, or at one place of a graph."""

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str: ...

    def call(self, function: Function, inputs: Sequence[str], **attributes: Any) -> list[str]: ...


def linear_nodes(
    nodes: Nodes, x: str, matrix: Sequence[str], bias: str, shape: tuple[int, ...], precision: Precision
) -> str:
    """x @ weight.T + bias of a weight with `shape` [out, in], stored as `GraphBuilder.matrix` does; "" is no bias."""
    if precision.kind == "fp32":
        y = nodes.op("MatMul", [x, *matrix])
        return nodes.op("Add", [y, bias]) if bias else y
    n, k = shape
    inputs = [x, *matrix]
    sizes: dict[str, Any] = {"K": k, "N": n, "bits": precision.bits, "block_size": precision.group_size}
    if precision.has_kernel:
        return nodes.call(_linear_nbits(bool(bias)), [*inputs, bias] if bias else inputs, **sizes)[0]
    inputs += ["", "", bias] if bias else []
    return nodes.op("MatMulNBits", inputs, domain=CONTRIB, accuracy_level=_INT8_ACTIVATIONS, **sizes)


def _linear_nbits(bias: bool) -> Function:
    """x, packed weight, scales and, with `bias`, that -> x @ weight.T + bias, as MatMulNBits takes and gives them."""
    f = Function("LinearNBitsBias" if bias else "LinearNBits")
    inputs = [f.input(), f.input(), f.input()] + (["", "", f.input()] if bias else [])
    sizes = dict.fromkeys(("K", "N", "bits", "block_size"), int)
    f.output(f.op("MatMulNBits", inputs, domain=CONTRIB, given=sizes, accuracy_level=_INT8_ACTIVATIONS))
    return f
