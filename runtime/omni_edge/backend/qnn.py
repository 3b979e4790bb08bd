"""Qualcomm's NPU (HTP) by onnxruntime-qnn, a plugin of onnxruntime; on x86 it runs the vendor's simulator.

The plugin has no part of the runtime's dependencies: it is imported where a graph is to run on the NPU. A graph that it
takes only partly is refused, so that no part of it runs on the processor unnoticed.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omni_edge.backend.onnx_runtime import ort
from omni_edge.bundle.manifest import StaticSection
from omni_edge.errors import BundleError, ResourceError, UsageError

_PACKAGE = "onnxruntime_qnn"
_PROVIDER = "QNNExecutionProvider"
# Target -> the plugin's name of the architecture, and of a system on a chip that has it.
_ARCHITECTURES = MappingProxyType(
    {
        "qnn-htp:v73": ("73", "43"),
        "qnn-htp:v75": ("75", "57"),
        "qnn-htp:v79": ("79", "69"),
        "qnn-htp:v81": ("81", "87"),
    }
)
TARGETS = tuple(_ARCHITECTURES)
DEVICES = ("cpu", "qnn", "auto")
_INSTALL = "pip install 'omni-edge[qnn]'"
# A lower level would print on stderr what the exceptions say as well.
_FATAL = 4


def installed() -> bool:
    """Whether the plugin is installed."""
    return util.find_spec(_PACKAGE) is not None


def version() -> str:
    """The version of the plugin."""
    return metadata.version(_PACKAGE)


def choose_target(device: str, static: StaticSection | None) -> str | None:
    """The NPU that runs a bundle's static graphs; None: the processor runs everything.

    Args:
        device: "cpu", "qnn", or "auto": the NPU where this machine has one and the bundle has graphs for it. The
            simulator, which is slow, is only taken as "qnn".
        static: of the bundle.

    Raises:
        UsageError: there is no such device, or the bundle has no graphs for it.
        BundleError: its graphs are for a target that this version does not have.
        ResourceError: the plugin is not installed, or finds neither an NPU nor its simulator.
    """
    if device not in DEVICES:
        raise UsageError(f"There is no device {device}; the devices are {', '.join(DEVICES)}.")
    if device == "cpu" or (device == "auto" and (static is None or not installed() or simulated())):
        return None
    if static is None:
        raise UsageError(
            "This bundle has no graphs for an NPU. Export it with --target qnn-htp:v75, or use --device cpu."
        )
    if static.target not in TARGETS:
        raise BundleError(
            f"The bundle's graphs are for the target {static.target}; this version has {', '.join(TARGETS)}. Use "
            "--device cpu, or export the bundle again."
        )
    require_plugin()
    return static.target


def require_plugin() -> None:
    """Raises ResourceError where the plugin is not installed, or finds neither an NPU nor its simulator."""
    if not installed():
        raise ResourceError(f"The NPU needs onnxruntime-qnn, which is not installed: {_INSTALL}. Or go on without it.")
    if not _devices():
        raise ResourceError("onnxruntime-qnn finds no NPU on this machine, and no simulator. Go on without it.")


def simulated() -> bool:
    """Whether there is at most the vendor's simulator, and no NPU."""
    return not any(device.device.type == ort.OrtHardwareDeviceType.NPU for device in _devices())


def open_session(path: Path, target: str, compiled: Path | None = None) -> ort.InferenceSession:
    """A session that runs a graph on the NPU, all of it.

    Args:
        path: the graph, which is compiled for this session alone, or a compiled one.
        target: one of `TARGETS`.
        compiled: where to write what is compiled; None: nowhere.
    """
    architecture, chip = _ARCHITECTURES[target]
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    entries = {"session.disable_cpu_ep_fallback": "1"}
    if compiled is not None:
        # `ort.ModelCompiler` ends the process where weights lie in a file of their own (onnxruntime 1.32).
        entries |= {
            "ep.context_enable": "1",
            "ep.context_embed_mode": "0",
            "ep.context_file_path": str(compiled),
        }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    options.add_provider_for_devices(
        _devices()[:1],
        {
            "backend_type": "htp",
            "htp_arch": architecture,
            "soc_model": chip,
            "enable_htp_fp16_precision": "1",
        },
    )
    return ort.InferenceSession(str(path), options)


@cache
def _devices() -> list[Any]:
    """The plugin's devices; the plugin is registered once for the process."""
    ort.register_execution_provider_library(_PROVIDER, import_module(_PACKAGE).get_library_path())
    return [device for device in ort.get_ep_devices() if device.ep_name == _PROVIDER]
