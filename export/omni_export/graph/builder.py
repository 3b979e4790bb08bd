"""Builds one ONNX graph node by node, with its large weights in an external data file.

Graphs are written operator by operator, not traced from torch. The export so chooses the operators that are fast on a
CPU: block-quantized products, grouped-query attention over a shared cache, skip-normalization.

Node names are paths in the model (`/model/layers.0/attn/qkv_proj/MatMul`), so that a profile reads like the source.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from omni_edge.errors import ResourceError
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.data_file import ELEMENT_TYPES, DataFile, Produce, TensorSpec
from omni_export.graph.function import CONTRIB, DOMAINS, OWN, Function
from omni_export.graph.linear import linear_nodes
from omni_export.graph.node_order import reorder, shorten_names
from omni_export.graph.rounding import Quantize, round_blockwise
from omni_export.graph.static_linear import static_linear
from omni_quant import quantize_channelwise
from omni_quant.policy import SENSITIVE_PART, published_format, stated_precision
from omni_quant.precision import Activations, Kind, Precision, Scales, WeightFormat

Shape = Sequence["int | str | None"]

IR_VERSION = 10
# Smaller constants stay inside the .onnx file.
_EXTERNAL_FROM_BYTES = 1024


@dataclass(frozen=True)
class GraphFile:
    """The files of a graph.

    Attributes:
        graph: `<name>.onnx`.
        data: `<name>.onnx.data`; None where there is no large weight.
        nodes: the number of nodes.
        precision: what the manifest states.
        sha256: file name -> SHA-256 (hex) of the bytes that were written.
    """

    graph: Path
    data: Path | None
    nodes: int
    precision: Precision
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    """Puts nodes at a path of a graph."""

    graph: GraphBuilder
    path: str

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.graph.op(kind, inputs, self.path, **attributes)

    def call(self, function: Function, inputs: Sequence[str], **attributes: Any) -> list[str]:
        return self.graph.call(function, inputs, self.path, **attributes)


class GraphBuilder:
    """Collects nodes, inputs, outputs and weights of one graph; `save` writes them.

    Values are passed around by name (str). Weights are `LazyTensor`s: they are read, quantized and written one at a
    time in `save`.

    Args:
        name: of the graph and of its files.
        formats: part of the graph -> format of its weights, as `omni_quant.policy.formats` gives them.
        weights_of: the graph whose weights, by name, and data file this one shares. Its nodes are those that an NPU's
            compiler takes: standard operators, and MatMulNBits without a bias over whole groups.

    Attributes:
        quantize: makes packed weights while `save` writes them; calibration puts its own function here.
        matrices: name of an initializer that `quantize` makes -> name of the checkpoint's weight, and its format.
        published: name of an initializer that the checkpoint has quantized -> part of the graph, and its format.
    """

    def __init__(
        self,
        name: str,
        formats: Mapping[str, WeightFormat] | None = None,
        weights_of: GraphBuilder | None = None,
    ) -> None:
        self.name = name
        self.formats: dict[str, WeightFormat] = dict(weights_of.formats if weights_of else formats or {})
        self._weights_of = weights_of
        self.quantize: Quantize = round_blockwise
        self.matrices: dict[str, tuple[str, WeightFormat]] = {}
        self.published: dict[str, tuple[str, WeightFormat]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._data = DataFile()
        self._functions: dict[str, onnx.FunctionProto] = {}

    @property
    def precision(self) -> Precision:
        """The precision that the manifest states of this graph."""
        first = next(iter(self.formats), None)
        stated = {first, SENSITIVE_PART}
        published = Counter(weights for part, weights in self.published.values() if part in stated)
        if published:
            weights = published.most_common(1)[0][0]
            return Precision(weights.kind, weights.group_size)
        return stated_precision(self.formats) if self.formats else Precision()

    # -- the graph's edges -------------------------------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> str:
        """Declares a graph input; a str in `shape` names a dynamic dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape)))
        return name

    def output(self, value: str, name: str, shape: Shape, dtype: str = "float32") -> None:
        """Publishes `value` as the graph output `name`."""
        if value != name:
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"/{name}/Identity"))
        self._outputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], list(shape)))

    @property
    def input_names(self) -> list[str]:
        """Names of the declared inputs, in order."""
        return [value.name for value in self._inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the published outputs, in order."""
        return [value.name for value in self._outputs]

    # -- nodes -------------------------------------------------------------------------------------------------

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        name: str,
        *,
        domain: str = "",
        outputs: Sequence[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Adds a node; returns its first output.

        Args:
            kind: the operator.
            inputs: values; "" leaves an optional input out.
            name: path of the node.
            domain: of the operator.
            outputs: names of the outputs, where there are several; "" leaves an optional output out.
            attributes: of the operator.
        """
        names = list(outputs) if outputs is not None else [f"{name}/{kind}_output"]
        node = helper.make_node(kind, list(inputs), names, name=f"{name}/{kind}", domain=domain, **attributes)
        self._nodes.append(node)
        return names[0]

    def call(self, function: Function, inputs: Sequence[str], name: str, **attributes: Any) -> list[str]:
        """Adds a node that calls `function`, and the function to the model; returns its outputs."""
        proto = self._joined(function)
        names = [f"{name}/{function.name}_{output}" for output in proto.output]
        self.op(function.name, inputs, name, domain=OWN, outputs=names, **attributes)
        return names

    def _joined(self, function: Function) -> onnx.FunctionProto:
        for called in function.called:
            self._joined(called)
        return self._functions.setdefault(function.name, function.proto())

    def const(
        self, value: NDArray[Any] | Sequence[int] | float | int, name: str | None = None, *, inline: bool = False
    ) -> str:
        """A constant. Equal constants without a name are stored once.

        Args:
            value: Python ints become int64, floats float32.
            name: of the initializer; required above some twenty values.
            inline: a large constant stays in the graph's file.
        """
        array = np.asarray(value)
        if name is None:
            if array.dtype == np.float64:
                array = array.astype(np.float32)
            name = f"const/{array.dtype}/{list(array.shape)}/{array.tobytes().hex()}"
            if len(name) > 160:
                raise ValueError("a constant this large needs a name")
        if not self._has(name):
            if array.nbytes >= _EXTERNAL_FROM_BYTES and not inline:
                self._external([(name, array.dtype, array.shape)], lambda: [array])
            else:
                self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, tensor: LazyTensor, name: str) -> str:
        """A weight that is stored in float32."""
        if not self._has(name):
            self._external([(name, np.dtype(np.float32), tensor.shape)], lambda: [tensor.load()])
        return name

    def computed(self, tensors: Sequence[TensorSpec], produce: Produce) -> list[str]:
        """Weights that `produce` computes together when the graph is written; returns their names."""
        self._external(tensors, produce)
        return [name for name, _, _ in tensors]

    def _has(self, name: str) -> bool:
        """Whether there is an initializer `name`; that of another graph is taken over."""
        if self._weights_of and name not in self._initializers and name in self._weights_of._initializers:
            self._initializers[name] = self._weights_of._initializers[name]
        return name in self._initializers

    def _external(self, tensors: Sequence[TensorSpec], produce: Produce, weights: int | None = None) -> None:
        for proto in self._data.add(tensors, produce, weights):
            self._initializers[proto.name] = proto

    # -- layers ------------------------------------------------------------------------------------------------

    def linear(self, x: str, weight: LazyTensor, name: str, part: str, *, bias: LazyTensor | None = None) -> str:
        """x @ weight.T + bias, with the weight stored as `part` of the graph is.

        Args:
            x: float32 [..., in].
            weight: [out, in], as in a checkpoint.
            name: path of the nodes.
            part: a key of `formats`.
            bias: [out].
        """
        if weight.parts and self.formats[part].kind is not Kind.FP32:
            rows = [self.linear(x, piece, f"{name}/{index}", part) for index, piece in enumerate(weight.parts)]
            y = self.op("Concat", rows, name, axis=-1)
            return y if bias is None else self.op("Add", [y, self.weight(bias, f"{name}.bias")], name)
        weights = self.format(weight, part)
        if weights.scales is Scales.OUTPUT:
            return self._dynamic_linear(x, weight, name, bias)
        # The order of matrix and bias in the data file is historical: it keeps bundles equal byte for byte.
        weight_only = weights.scales is Scales.GROUP and weights.activations is Activations.FLOAT32
        early = self.matrix(weight, f"{name}.weight", part) if weight_only else None
        bias_name = self.weight(bias, f"{name}.bias") if bias is not None else ""
        matrix = early or self.matrix(weight, f"{name}.weight", part)
        shape = weight.shape
        if self.takes_over(weight, part) and weight.quantized is not None:
            shape = (shape[0], weight.quantized.columns)
            if weight.quantized.order is not None:
                order = self.const(weight.quantized.order.astype(np.int32), f"{name}.order")
                x = self.op("Gather", [x, order], name, axis=-1)
        if self._weights_of and weights.kind is not Kind.FP32:
            y = static_linear(self, _Place(self, name), x, matrix, shape, weights)
            return self.op("Add", [y, bias_name], f"{name}/bias") if bias_name else y
        return linear_nodes(_Place(self, name), x, matrix, bias_name, shape, weights)

    def takes_over(self, weight: LazyTensor, part: str) -> bool:
        """Whether `weight` is stored as the checkpoint has quantized it, not as `part` of the graph is."""
        return weight.quantized is not None and self.formats[part].kind is not Kind.FP32

    def format(self, weight: LazyTensor, part: str) -> WeightFormat:
        """The format in which `weight` is stored as `part` of the graph."""
        if weight.quantized is not None and self.takes_over(weight, part):
            return published_format(weight.quantized.bits, weight.quantized.block_size)
        return self.formats[part]

    def matrix(self, weight: LazyTensor, name: str, part: str) -> list[str]:
        """The initializers of a linear layer's weight [out, in], as `linear_nodes` takes them."""
        weights = self.format(weight, part)
        if self.takes_over(weight, part):
            self.published[name] = part, weights
        if weights.kind is not Kind.FP32:
            return self._quantized(weight, name, weights)
        if not self._has(name):
            self._external(
                [(name, np.dtype(np.float32), weight.shape[::-1])], lambda: [np.ascontiguousarray(weight.load().T)]
            )
        return [name]

    def _quantized(self, weight: LazyTensor, name: str, weights: WeightFormat, *, flat: bool = False) -> list[str]:
        """The packed weight, its scales and, where the format has them, its zero points as initializers.

        `flat` drops the axis of groups and its padding, which is the layout that gathering takes.
        """
        published = weight.quantized
        rows, columns = weight.shape[0], published.columns if published else weight.shape[1]
        bits, block = weights.kind.bits, weights.group_size
        blocks = -(-columns // block)
        row_bytes = -(-columns * bits // 8)
        scale_type = np.dtype(np.float16 if weights.float16_scales else np.float32)
        tensors: list[TensorSpec] = [
            (f"{name}_Q{bits}", np.dtype(np.uint8), (rows, row_bytes) if flat else (rows, blocks, block * bits // 8)),
            (f"{name}_scales", scale_type, (rows, blocks)),
        ]
        if weights.zero_points:
            tensors.append((f"{name}_zero_points", np.dtype(np.uint8), (rows, -(-blocks * bits // 8))))

        def produce() -> Iterable[NDArray[Any]]:
            result = published.blockwise(block) if published else self.quantize(weight, weights)
            packed = result.packed.reshape(rows, -1)[:, :row_bytes] if flat else result.packed
            return [packed, result.scales, *([] if result.zero_points is None else [result.zero_points])]

        if published is None:
            self.matrices[name] = (weight.name, weights)
        names = [tensor for tensor, _, _ in tensors]
        if any(not self._has(each) for each in names):
            self._external(tensors, produce, rows * columns)
        return names

    def _dynamic_linear(self, x: str, weight: LazyTensor, name: str, bias: LazyTensor | None) -> str:
        """x @ weight.T + bias as an INT8 x INT8 product, with one weight scale per output.

        The activations share one scale per call.
        """
        n, k = weight.shape

        def produce() -> Iterable[NDArray[Any]]:
            result = quantize_channelwise(weight.load())
            return [np.ascontiguousarray(result.codes.T), result.scales]

        self._external(
            [
                (f"{name}.weight_S8", np.dtype(np.int8), (k, n)),
                (f"{name}.weight_scales", np.dtype(np.float32), (n,)),
            ],
            produce,
        )
        codes, scale, zero = (f"{name}/input/{part}" for part in ("quantized", "scale", "zero"))
        self.op("DynamicQuantizeLinear", [x], f"{name}/input", outputs=[codes, scale, zero])
        inputs = [codes, f"{name}.weight_S8", scale, f"{name}.weight_scales", zero]
        if bias is not None:
            inputs += ["", self.weight(bias, f"{name}.bias")]
        return self.op("MatMulIntegerToFloat", inputs, name, domain=CONTRIB)

    def embedding(self, ids: str, weight: LazyTensor, name: str, part: str) -> str:
        """Rows `ids` (int64) of `weight` [vocabulary, hidden], stored as `part` of the graph is; float32."""
        weights = self.formats[part]
        if weights.kind is Kind.FP32:
            return self.op("Gather", [self.weight(weight, f"{name}.weight"), ids], name, axis=0)
        packed, *parameters = self._quantized(weight, f"{name}.weight", weights, flat=True)
        rows = self.op(
            "GatherBlockQuantized",
            [packed, ids, *parameters],
            name,
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=weights.group_size,
            bits=weights.kind.bits,
        )
        return self.op("Cast", [rows], name, to=TensorProto.FLOAT) if weights.float16_scales else rows

    def layer_norm(self, x: str, weight: LazyTensor, bias: LazyTensor, name: str, epsilon: float = 1e-5) -> str:
        """LayerNormalization over the last axis."""
        inputs = [x, self.weight(weight, f"{name}.weight"), self.weight(bias, f"{name}.bias")]
        return self.op("LayerNormalization", inputs, name, axis=-1, epsilon=epsilon)

    def rms_norm(self, x: str, weight: LazyTensor, name: str, epsilon: float) -> str:
        """x / rms(x) * weight over the last axis."""
        inputs = [x, self.weight(weight, f"{name}.weight")]
        return self.op("SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=epsilon)

    def skip_rms_norm(self, x: str, skip: str, weight: LazyTensor, name: str, epsilon: float) -> tuple[str, str]:
        """(rms_norm(x + skip), x + skip) in one operator."""
        if self._weights_of:
            total = self.op("Add", [x, skip], name)
            return self.rms_norm(total, weight, name, epsilon), total
        outputs = [f"{name}/normed", "", "", f"{name}/sum"]
        inputs = [x, skip, self.weight(weight, f"{name}.weight")]
        self.op("SkipSimplifiedLayerNormalization", inputs, name, domain=CONTRIB, outputs=outputs, epsilon=epsilon)
        return outputs[0], outputs[3]

    def silu(self, x: str, name: str) -> str:
        """x * sigmoid(x), in one kernel."""
        return self.op("QuickGelu", [x], name, domain=CONTRIB, alpha=1.0)

    # -- writing -----------------------------------------------------------------------------------------------

    @property
    def data_nbytes(self) -> int:
        """Bytes of all external weights, known before anything is read."""
        return self._data.nbytes

    @property
    def weights(self) -> int:
        """Weights that `save` reads and converts."""
        return self._data.weights

    def lay_out(self) -> None:
        """Gives every external weight its place in the data file; nothing is read."""
        self._data.lay_out(f"{self.name}.onnx.data")

    def save(
        self, directory: Path, progress: Callable[[int, int], None] | None = None, *, write_data: bool = True
    ) -> GraphFile:
        """Writes `<name>.onnx` and, for the large weights, `<name>.onnx.data` into `directory`.

        Args:
            directory: an existing folder.
            progress: called with the number of bytes just written, and of weights that they stand for.
            write_data: False where the data file exists already, from a graph with the same large weights.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        graph_path = directory / f"{self.name}.onnx"
        data_path = directory / f"{self.name}.onnx.data"
        sha256 = {}
        (self._weights_of or self).lay_out()
        try:
            if self._data and write_data:
                sha256[data_path.name] = self._data.write(data_path, progress or (lambda *_: None))
            outputs = {value.name for value in self._outputs}
            nodes = shorten_names(reorder(self._nodes, outputs), outputs)
            graph = helper.make_graph(nodes, self.name, self._inputs, self._outputs, list(self._initializers.values()))
            model = helper.make_model(
                graph,
                opset_imports=[helper.make_opsetid(*each) for each in DOMAINS.items()],
                functions=list(self._functions.values()),
                ir_version=IR_VERSION,
                producer_name="omni-export",
            )
            content = model.SerializeToString(deterministic=True)
            sha256[graph_path.name] = hashlib.sha256(content).hexdigest()
            graph_path.write_bytes(content)
        except OSError as error:
            raise ResourceError(
                f"Writing {graph_path.name} failed: {error.strerror}. Free some disk space and go on with --resume, "
                "or choose another --out."
            ) from error
        return GraphFile(graph_path, data_path if self._data else None, len(nodes), self.precision, sha256)
