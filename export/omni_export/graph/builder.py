"""Builds one ONNX graph node by node, its large weights streamed to an external data file.

Graphs are written out operator by operator instead of being traced from torch: the operators that are fast on a CPU
(block-quantized products, grouped-query attention over a shared cache, skip-normalization) are chosen, not hoped for,
and no weight is in memory for longer than it takes to quantize and write it.

Node names are paths in the model (`/model/layers.0/attn/qkv_proj/MatMul`), so that a profile reads like the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from omni_edge.backend.machine import usable_cores
from omni_edge.errors import ResourceError
from omni_export.checkpoint.lazy_tensor import LazyTensor
from omni_export.graph.function import CONTRIB, DOMAINS, OWN, Function
from omni_export.graph.linear import Precision, linear_nodes
from omni_export.graph.node_order import briefly_named, ordered
from omni_quant import quantize_blockwise_rows, quantize_channelwise

Shape = Sequence["int | str | None"]

IR_VERSION = 10
# onnxruntime maps a tensor from its file where it starts on a page; small ones are copied anyway and stay packed.
_PAGE_BYTES = 4096
_ALIGNMENT_BYTES = 64
_PAGE_ALIGNED_FROM_BYTES = 16 * _PAGE_BYTES
# Smaller constants stay inside the .onnx file.
_EXTERNAL_FROM_BYTES = 1024
# Hashed and written at a time, while the piece is in the processor's cache.
_PIECE_BYTES = 1 << 20
_ELEMENT_TYPES: dict[str, int] = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}


@dataclass(frozen=True)
class GraphFile:
    """What was written: the graph's file, its data file (None where there is no large weight), and the SHA-256 (hex) of
    the bytes that were written, by file name.
    """

    graph: Path
    data: Path | None
    nodes: int
    precision: Precision
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass
class _Group:
    """Tensors that one producer yields together (a packed matrix and its scales), for a number of `weights`."""

    protos: list[TensorProto]
    produce: Callable[[], Iterable[NDArray[Any]]]
    nbytes: list[int]
    weights: int
    offsets: list[int] = field(default_factory=list)


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
    """

    def __init__(self, name: str, precision: Precision | None = None) -> None:
        self.name = name
        self.precision = precision or Precision()
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._groups: list[_Group] = []
        self._functions: dict[str, onnx.FunctionProto] = {}

    # -- the graph's edges -------------------------------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> str:
        """Declares a graph input; a str in `shape` names a dynamic dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, _ELEMENT_TYPES[dtype], list(shape)))
        return name

    def output(self, value: str, name: str, shape: Shape, dtype: str = "float32") -> None:
        """Publishes `value` as the graph output `name`."""
        if value != name:
            self._nodes.append(helper.make_node("Identity", [value], [name], name=f"/{name}/Identity"))
        self._outputs.append(helper.make_tensor_value_info(name, _ELEMENT_TYPES[dtype], list(shape)))

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
        """Adds a node `kind` at path `name`; returns its first output (`outputs` names them where there are more).

        An empty string among `inputs` or `outputs` leaves an optional one out.
        """
        names = list(outputs) if outputs is not None else [f"{name}/{kind}_output"]
        node = helper.make_node(kind, list(inputs), names, name=f"{name}/{kind}", domain=domain, **attributes)
        self._nodes.append(node)
        return names[0]

    def call(self, function: Function, inputs: Sequence[str], name: str, **attributes: Any) -> list[str]:
        """Adds a node that calls `function`, which joins the model; returns its outputs."""
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
        """A constant. Python ints become int64, floats float32; equal unnamed constants are stored once.

        `inline` keeps a large one inside the graph's file.
        """
        array = np.asarray(value)
        if name is None:
            if array.dtype == np.float64:
                array = array.astype(np.float32)
            name = f"const/{array.dtype}/{list(array.shape)}/{array.tobytes().hex()}"
            if len(name) > 160:
                raise ValueError("a constant this large needs a name")
        if name not in self._initializers:
            if array.nbytes >= _EXTERNAL_FROM_BYTES and not inline:
                self._external([(name, array.dtype, array.shape)], lambda: [array])
            else:
                self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, tensor: LazyTensor, name: str) -> str:
        """A float32 weight as it is."""
        if name not in self._initializers:
            self._external([(name, np.dtype(np.float32), tensor.shape)], lambda: [tensor.load()])
        return name

    def computed(
        self,
        tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]],
        produce: Callable[[], Iterable[NDArray[Any]]],
    ) -> list[str]:
        """Weights (name, dtype, shape) that `produce` makes, all together, when the graph is written; their names."""
        self._external(tensors, produce)
        return [name for name, _, _ in tensors]

    def _external(
        self,
        tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]],
        produce: Callable[[], Iterable[NDArray[Any]]],
        weights: int | None = None,
    ) -> None:
        group = _Group([], produce, [], weights or max(int(np.prod(shape, dtype=np.int64)) for _, _, shape in tensors))
        for name, dtype, shape in tensors:
            proto = TensorProto(name=name, dims=shape, data_type=_ELEMENT_TYPES[dtype.name])
            proto.data_location = TensorProto.EXTERNAL
            self._initializers[name] = proto
            group.protos.append(proto)
            group.nbytes.append(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        self._groups.append(group)

    # -- layers ------------------------------------------------------------------------------------------------

    def linear(
        self,
        x: str,
        weight: LazyTensor,
        name: str,
        *,
        bias: LazyTensor | None = None,
        precision: Precision | None = None,
    ) -> str:
        """x @ weight.T + bias in the graph's precision; `weight` is [out, in] as in a checkpoint, x [..., in]."""
        precision = precision or self.precision
        bias_name = self.weight(bias, f"{name}.bias") if bias is not None else ""
        matrix = self.matrix(weight, f"{name}.weight", precision)
        return linear_nodes(_Place(self, name), x, matrix, bias_name, weight.shape, precision)

    def matrix(self, weight: LazyTensor, name: str, precision: Precision) -> list[str]:
        """The initializers that a linear layer's weight [out, in] becomes, as `linear_nodes` takes them."""
        if precision.kind != "fp32":
            return list(self.quantized(weight, name, precision))
        self._external(
            [(name, np.dtype(np.float32), weight.shape[::-1])], lambda: [np.ascontiguousarray(weight.load().T)]
        )
        return [name]

    def quantized(self, weight: LazyTensor, name: str, precision: Precision, *, flat: bool = False) -> tuple[str, str]:
        """The packed weight and its scales as initializers; `flat` drops the block axis and its padding (gather)."""
        rows, columns = weight.shape
        bits, block = precision.bits, precision.group_size
        blocks = -(-columns // block)
        row_bytes = -(-columns * bits // 8)
        packed_shape = (rows, row_bytes) if flat else (rows, blocks, block * bits // 8)

        def produce() -> Iterable[NDArray[Any]]:
            result = quantize_blockwise_rows(
                weight.read, rows, columns, bits=bits, block_size=block, threads=usable_cores()
            )
            packed = result.packed.reshape(rows, -1)[:, :row_bytes] if flat else result.packed
            return [packed, result.scales]

        packed_name, scales_name = f"{name}_Q{bits}", f"{name}_scales"
        if packed_name not in self._initializers:
            self._external(
                [
                    (packed_name, np.dtype(np.uint8), packed_shape),
                    (scales_name, np.dtype(np.float32), (rows, blocks)),
                ],
                produce,
                rows * columns,
            )
        return packed_name, scales_name

    def dynamic_linear(self, x: str, weight: LazyTensor, name: str, *, bias: LazyTensor) -> str:
        """x @ weight.T + bias as an INT8 x INT8 product, with one weight scale per output.

        Faster than block-wise INT8 from a few tens of rows up; the activations share one scale per call.
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
        inputs = [
            codes,
            f"{name}.weight_S8",
            scale,
            f"{name}.weight_scales",
            zero,
            "",
            self.weight(bias, f"{name}.bias"),
        ]
        return self.op("MatMulIntegerToFloat", inputs, name, domain=CONTRIB)

    def embedding(self, ids: str, weight: LazyTensor, name: str, precision: Precision | None = None) -> str:
        """Rows `ids` of `weight` [vocabulary, hidden], stored in `precision` (the graph's own by default)."""
        precision = precision or self.precision
        if precision.kind == "fp32":
            return self.op("Gather", [self.weight(weight, f"{name}.weight"), ids], name, axis=0)
        packed, scales = self.quantized(weight, f"{name}.weight", precision, flat=True)
        return self.op(
            "GatherBlockQuantized",
            [packed, ids, scales],
            name,
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=precision.group_size,
            bits=precision.bits,
        )

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
        outputs = [f"{name}/normed", "", "", f"{name}/sum"]
        inputs = [x, skip, self.weight(weight, f"{name}.weight")]
        self.op("SkipSimplifiedLayerNormalization", inputs, name, domain=CONTRIB, outputs=outputs, epsilon=epsilon)
        return outputs[0], outputs[3]

    def silu(self, x: str, name: str) -> str:
        """x * sigmoid(x), one kernel."""
        return self.op("QuickGelu", [x], name, domain=CONTRIB, alpha=1.0)

    # -- writing -----------------------------------------------------------------------------------------------

    @property
    def data_nbytes(self) -> int:
        """Bytes of all external weights, known before anything is read (for progress)."""
        return sum(sum(group.nbytes) for group in self._groups)

    @property
    def weights(self) -> int:
        """Weights that `save` reads and converts: what its time goes by, whatever they are stored as."""
        return sum(group.weights for group in self._groups)

    def save(
        self, directory: Path, progress: Callable[[int, int], None] | None = None, *, write_data: bool = True
    ) -> GraphFile:
        """Writes `<name>.onnx` and, for the large weights, `<name>.onnx.data` into `directory`.

        Weights are read and converted one after the other, while the one before is hashed and written.

        Args:
            directory: an existing folder.
            progress: called with the number of bytes just written, and of weights that they stand for.
            write_data: False: the data file is there already, from a graph with the same large weights.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        graph_path = directory / f"{self.name}.onnx"
        data_path = directory / f"{self.name}.onnx.data"
        sha256 = {}
        self._place(data_path.name)
        try:
            if self._groups and write_data:
                sha256[data_path.name] = self._write_data(data_path, progress or (lambda *_: None))
            outputs = {value.name for value in self._outputs}
            nodes = briefly_named(ordered(self._nodes, outputs), outputs)
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
        return GraphFile(graph_path, data_path if self._groups else None, len(nodes), self.precision, sha256)

    def _place(self, location: str) -> None:
        """Gives every large weight its place in the data file; sizes are known before anything is read."""
        end = 0
        for group in self._groups:
            group.offsets.clear()
            for proto, nbytes in zip(group.protos, group.nbytes, strict=True):
                unit = _PAGE_BYTES if nbytes >= _PAGE_ALIGNED_FROM_BYTES else _ALIGNMENT_BYTES
                offset = -(-end // unit) * unit
                end = offset + nbytes
                group.offsets.append(offset)
                del proto.external_data[:]
                for key, value in (("location", location), ("offset", offset), ("length", nbytes)):
                    proto.external_data.add(key=key, value=str(value))

    def _write_data(self, path: Path, progress: Callable[[int, int], None]) -> str:
        """The large weights at their places; returns the file's SHA-256."""
        digest = hashlib.sha256()
        with path.open("wb") as file, ThreadPoolExecutor(1) as writer:

            def write(group: _Group, arrays: list[NDArray[Any]]) -> None:
                for offset, array in zip(group.offsets, arrays, strict=True):
                    for content in (memoryview(bytes(offset - file.tell())), array.reshape(-1).view(np.uint8).data):
                        for start in range(0, len(content), _PIECE_BYTES):
                            piece = content[start : start + _PIECE_BYTES]
                            digest.update(piece)
                            file.write(piece)

            writing: Future[None] | None = None
            for group in self._groups:
                arrays = [np.ascontiguousarray(array) for array in group.produce()]
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, group, arrays)
                progress(sum(group.nbytes), group.weights)
            if writing is not None:
                writing.result()
        return digest.hexdigest()
