"""A loaded ONNX graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend import kernels, qnn
from omni_edge.backend.machine import usable_cores
from omni_edge.backend.onnx_runtime import ort
from omni_edge.bundle.reader import Bundle
from omni_edge.errors import BundleError, ResourceError, UsageError

Trace = Callable[[str, float, float], None]
"""Called after every run of a graph with its role, begin and end (s, `time.perf_counter`)."""

_ELEMENT_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}


# Initializers below this size stay inside a prepared graph: shape inference cannot look into a data file.
_PREPARED_EXTERNAL_FROM_BYTES = 64 << 10
# Without VNNI, onnxruntime's products of uint8 and int8 saturate at 16 bits: 22 dB instead of 39 for a DiT.
_EXACT_PRODUCTS, _NOT_EXACT = "session.x64quantprecision", "existing tensor"
# ARM's own products: 1 % of the maximum off per layer where ours are 6e-5 off x86, and on a processor with SME (under
# emulation) wrong by 40 %. Other processors do not read this entry.
_NO_KLEIDIAI = "mlas.disable_kleidiai"
# A lower level would print on stderr what the exceptions say as well.
_FATAL = 4


def runtime_version() -> str:
    """The version of onnxruntime."""
    return str(ort.__version__)


def prepare_graph(source: Path, out: Path, target: str | None = None) -> None:
    """Writes the graph `source` to `out` (and a file beside it), packed for this machine or compiled for an NPU.

    Args:
        source: the graph.
        out: the prepared one.
        target: the NPU, one of `qnn.TARGETS`; None: this machine's processor.

    Raises:
        ResourceError: not enough memory or disk space, or the NPU does not take the graph.
    """

    def configure(options: ort.SessionOptions) -> None:
        options.optimized_model_filepath = str(out)
        for key, value in (
            ("session.optimized_model_external_initializers_file_name", f"{out.name}.data"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", str(_PREPARED_EXTERNAL_FROM_BYTES)),
            ("session.save_external_prepacked_constant_initializers", "1"),
        ):
            options.add_session_config_entry(key, value)

    try:
        if target is None:
            _open(source, configure)
        else:
            qnn.open_session(source, target, out)
    except Exception as error:
        raise ResourceError(f"Preparing {source.name} failed: {str(error).splitlines()[0][:200]}.") from error


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of a graph's input or output; a dynamic dimension is None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


class Graph:
    """An ONNX graph, its weights mapped from disk; immutable, shared between sessions and threads.

    Args:
        path: the `.onnx` file.
        inputs: role -> tensor name; None: every tensor's role is its name.
        outputs: role -> tensor name; None: every tensor's role is its name.
        threads: cores one call may use; None: all of them.
        varying: every call may have another shape, as pictures have. Memory is then given back after each call and not
            planned ahead (a picture of 16 000 patches: 1.5 GB at the peak and 0.5 GB kept, not 3.6 GB and 3.5 GB).
        role: its name in the trace; None: the file's name.
        trace: called after every run.
        target: the NPU that runs it, one of `qnn.TARGETS`; None: the processor runs it.

    Raises:
        BundleError: the file cannot be loaded as a graph.
        ResourceError: there is not enough memory.
    """

    def __init__(
        self,
        path: Path,
        inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
        threads: int | None = None,
        *,
        varying: bool = False,
        role: str | None = None,
        trace: Trace | None = None,
        target: str | None = None,
    ) -> None:
        self._run_options = ort.RunOptions()
        if varying:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            if target is None:
                self._session = _open(path, partial(_configure, threads=threads or usable_cores(), varying=varying))
            else:
                self._session = qnn.open_session(path, target)
        except (ResourceError, UsageError):
            raise
        except MemoryError:
            raise ResourceError(f"Not enough memory to load {path.name}. Close other programs.") from None
        except Exception as error:  # onnxruntime raises its own, undocumented family
            reason = str(error).splitlines()[0][:200]
            if "alloc" in reason.lower():
                raise ResourceError(f"Not enough memory to load {path.name} ({reason}).") from None
            raise BundleError(f"{path} cannot be loaded: {reason}. Export the bundle again.") from None
        self.path = path
        self._role = role or path.stem
        self._trace = trace
        self.inputs = _specs(self._session.get_inputs())
        self.outputs = _specs(self._session.get_outputs())
        self._input_names = dict(inputs) if inputs is not None else {name: name for name in self.inputs}
        self._output_names = dict(outputs) if outputs is not None else {name: name for name in self.outputs}

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        role: str,
        threads: int | None = None,
        *,
        prepared: Path | None = None,
        varying: bool = False,
        trace: Trace | None = None,
    ) -> Graph:
        """The graph that plays `role` in a bundle; read from `prepared` where it was prepared for this machine."""
        entry = bundle.manifest.graphs.get(role)
        if entry is None:
            raise BundleError(f"The bundle {bundle.path} has no {role!r} graph. Export it again without --text-only.")
        if entry.data is not None:
            bundle.file(entry.data)
        path = prepared or bundle.file(entry.file)
        return cls(path, entry.inputs, entry.outputs, threads, varying=varying, role=role, trace=trace)

    def input_name(self, role: str, layer: int | None = None) -> str:
        """The tensor name of an input role; `layer` fills a per-layer name."""
        return self._name(self._input_names, role, layer)

    def output_name(self, role: str, layer: int | None = None) -> str:
        """The tensor name of an output role; `layer` fills a per-layer name."""
        return self._name(self._output_names, role, layer)

    def _name(self, names: Mapping[str, str], role: str, layer: int | None) -> str:
        if role not in names:
            raise BundleError(f"The manifest names no tensor {role!r} of {self.path.name}. Export the bundle again.")
        return names[role].format(layer=layer)

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """Runs once. `feeds` maps input roles to arrays; `outputs` names output roles (None: all, in order)."""
        names = [self.output_name(role) for role in (outputs if outputs is not None else self._output_names)]
        began = time.perf_counter()
        try:
            result: list[NDArray[Any]] = self._session.run(
                names, {self.input_name(role): value for role, value in feeds.items()}, self._run_options
            )
        except Exception as error:
            raise _failed(self.path, error) from error
        if self._trace:
            self._trace(self._role, began, time.perf_counter())
        return result

    def binding(self) -> Binding:
        """A fresh set of bound tensors for repeated runs without copies."""
        return Binding(self.path, self._session, self._role, self._trace)


class Binding:
    """Inputs and outputs tied to memory that the caller owns: numpy arrays stay where they are.

    Binding one array as an input and as an output lets an operator update it in place (the KV cache).
    """

    def __init__(self, path: Path, session: ort.InferenceSession, role: str, trace: Trace | None) -> None:
        self._path = path
        self._session = session
        self._role = role
        self._trace = trace
        self._binding = session.io_binding()
        self._held: dict[str, Any] = {}

    def input(self, name: str, array: NDArray[Any]) -> None:
        """Binds a contiguous array as input `name`; later runs read the values that it then has."""
        self._bind(self._binding.bind_ortvalue_input, f"in:{name}", name, array)

    def output(self, name: str, array: NDArray[Any]) -> None:
        """Binds a contiguous array as output `name`: results are written into it."""
        self._bind(self._binding.bind_ortvalue_output, f"out:{name}", name, array)

    def _bind(self, bind: Callable[[str, Any], None], key: str, name: str, array: NDArray[Any]) -> None:
        value = ort.OrtValue.ortvalue_from_numpy(array)
        self._held[key] = (value, array)
        try:
            bind(name, value)
        except Exception as error:  # onnxruntime raises undocumented exceptions of its own
            raise _failed(self._path, error) from error

    def run(self) -> None:
        """Runs once over the bound arrays."""
        began = time.perf_counter()
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise _failed(self._path, error) from error
        if self._trace:
            self._trace(self._role, began, time.perf_counter())


def _open(path: Path, configure: Callable[[ort.SessionOptions], None]) -> ort.InferenceSession:
    """A session with our operators, exact products of bytes, without KleidiAI, and errors as exceptions alone.

    Args:
        path: the graph.
        configure: sets the other options.
    """
    # onnxruntime cannot make the products of some older bundles exact; those are loaded as they are.
    for exact in ("1", "0"):
        options = ort.SessionOptions()
        kernels.register(options)
        options.add_session_config_entry(_EXACT_PRODUCTS, exact)
        options.add_session_config_entry(_NO_KLEIDIAI, "1")
        options.log_severity_level = _FATAL
        configure(options)
        try:
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if exact == "0" or _NOT_EXACT not in str(error):
                raise
    raise AssertionError("the last attempt returns or raises")


def _configure(options: ort.SessionOptions, *, threads: int, varying: bool) -> None:
    """The options of a graph that is run."""
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # In the order of the file, in which values are used soon after they are made: the default order walks branches
    # side by side and holds ten times as much of BigVGAN (measured: 1.9 GB of activations instead of 0.1 GB).
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # Threads spin between the operators of a run, which are short (measured: a quarter of the Talker's and of
    # BigVGAN's time), and stop at its end: graphs take turns on the same few cores, and a pool that goes on
    # spinning slows the next one's down by up to 2x and drains a battery.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_mem_pattern = not varying
    options.enable_mem_reuse = not varying


def _failed(path: Path, error: Exception) -> BundleError | ResourceError:
    """Why a run failed: memory, or a graph that does not fit its manifest. The first line of onnxruntime says it."""
    reason = str(error).splitlines()[0][:200]
    if isinstance(error, MemoryError) or "alloc" in reason.lower():
        return ResourceError(
            f"Not enough memory to run {path.name} ({reason}). Close programs, or use a smaller input."
        )
    return BundleError(f"Running {path.name} failed: {reason}. 'omni-edge info' checks the bundle; export it again.")


def _specs(arguments: Sequence[Any]) -> dict[str, TensorSpec]:
    return {
        argument.name: TensorSpec(
            argument.name,
            _ELEMENT_TYPES[argument.type],
            tuple(dim if isinstance(dim, int) else None for dim in argument.shape),
        )
        for argument in arguments
    }
