"""Operators of our own: functions of a model, which define them by standard operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 21
CONTRIB = "com.microsoft"
OWN = "omni.edge"
DOMAINS = {"": OPSET, CONTRIB: 1, OWN: 1}
_ATTRIBUTE_TYPES = {
    int: onnx.AttributeProto.INT,
    float: onnx.AttributeProto.FLOAT,
    tuple: onnx.AttributeProto.INTS,
}

Given = Mapping[str, "type | tuple[str, type]"]
"""A node's attribute -> its type: int, float, or tuple (of int). With a name where the function's has another one."""


class Function:
    """The definition of an operator in the domain `OWN`.

    onnxruntime puts the definition in the place of each call, unless a kernel is registered for an operator of that
    name. Kernels find their tensors under the names `Input0`, `Output0` and so on.

    Attributes:
        called: the functions that its nodes call; a model needs them as well.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[str] = []
        self._outputs: list[str] = []
        self._attributes: list[str] = []
        self.called: list[Function] = []

    def input(self) -> str:
        """Declares the next input."""
        self._inputs.append(f"Input{len(self._inputs)}")
        return self._inputs[-1]

    def output(self, value: str) -> None:
        """Makes `value` the next output."""
        name = f"Output{len(self._outputs)}"
        self._outputs.append(name)
        for node in self._nodes:
            node.input[:] = [name if each == value else each for each in node.input]
            node.output[:] = [name if each == value else each for each in node.output]

    def attribute(self, name: str) -> None:
        """Declares an attribute that a call sets. Attributes in `given` of a node are declared with the node."""
        if name not in self._attributes:
            self._attributes.append(name)

    def op(self, kind: str, inputs: Sequence[str], *, given: Given | None = None, **attributes: Any) -> str:
        """Adds a node; returns its first output. See `ops`."""
        return self.ops(kind, inputs, 1, given=given, **attributes)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        count: int,
        *,
        domain: str = "",
        without: Collection[int] = (),
        given: Given | None = None,
        **attributes: Any,
    ) -> list[str]:
        """Adds a node; returns its outputs.

        Args:
            kind: the operator.
            inputs: values; "" leaves an optional input out.
            count: the number of outputs.
            domain: of the operator.
            without: indices of optional outputs that are left out.
            given: attributes whose values come with a call of this function; see `Given`.
            attributes: attributes with their values.
        """
        outputs = ["" if index in without else f"{kind}{len(self._nodes)}_{index}" for index in range(count)]
        node = helper.make_node(kind, list(inputs), outputs, domain=domain, **attributes)
        for name, value in (given or {}).items():
            source, type_ = value if isinstance(value, tuple) else (name, value)
            node.attribute.add(name=name, ref_attr_name=source, type=_ATTRIBUTE_TYPES[type_])
            self.attribute(source)
        self._nodes.append(node)
        return [output for output in outputs if output]

    def call(
        self, function: Function, inputs: Sequence[str], *, given: Given | None = None, **attributes: Any
    ) -> list[str]:
        """Adds a node that calls `function`; returns its outputs."""
        self.called.append(function)
        return self.ops(function.name, inputs, len(function._outputs), domain=OWN, given=given, **attributes)

    def const(self, value: NDArray[Any] | Sequence[int] | float) -> str:
        """A constant: integers become int64, floats float32."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        return self.op("Constant", [], value=numpy_helper.from_array(array))

    def proto(self) -> onnx.FunctionProto:
        """The function as a model stores it."""
        opsets = [helper.make_opsetid(domain, version) for domain, version in DOMAINS.items()]
        return helper.make_function(OWN, self.name, self._inputs, self._outputs, self._nodes, opsets, self._attributes)
