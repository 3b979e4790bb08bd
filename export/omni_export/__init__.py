"""Checkpoint to bundle, and a bundle against its checkpoint.

    from omni_export import ExportOptions, export_bundle
    from omni_quant import Kind, Precision

    export_bundle("Qwen/Qwen2.5-Omni-3B", Path("omni-3b"), ExportOptions(Precision(Kind.INT4)))

The names are imported when they are first used: torch and onnx take seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omni_export.bundle import ExportOptions as ExportOptions
    from omni_export.bundle import ExportReport as ExportReport
    from omni_export.bundle import export_bundle as export_bundle
    from omni_export.evaluate.evaluate import evaluate_bundle as evaluate_bundle
    from omni_export.verify.verify import verify_bundle as verify_bundle

_HOMES = {
    "ExportOptions": "omni_export.bundle",
    "ExportReport": "omni_export.bundle",
    "evaluate_bundle": "omni_export.evaluate.evaluate",
    "export_bundle": "omni_export.bundle",
    "verify_bundle": "omni_export.verify.verify",
}

__all__ = ["ExportOptions", "ExportReport", "evaluate_bundle", "export_bundle", "verify_bundle"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
