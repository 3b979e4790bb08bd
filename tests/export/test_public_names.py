"""`omni_export` hands its public names on without importing torch before one of them is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import omni_export
from omni_export.bundle import ExportOptions, ExportReport, export_bundle
from omni_export.evaluate.evaluate import evaluate_bundle
from omni_export.verify.verify import verify_bundle

HEAVY = "{'torch', 'onnx', 'onnxruntime', 'transformers'} & set(sys.modules)"


def test_the_names_are_those_of_their_modules() -> None:
    assert omni_export.__all__ == sorted(omni_export.__all__)
    assert set(omni_export.__all__) <= set(dir(omni_export))
    assert [getattr(omni_export, name) for name in omni_export.__all__] == [
        ExportOptions,
        ExportReport,
        evaluate_bundle,
        export_bundle,
        verify_bundle,
    ]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'omni_export' has no attribute 'export'"):
        _ = omni_export.export


def test_nothing_heavy_is_imported_before_a_name_is_used() -> None:
    program = f"import sys, omni_export, omni_quant; print(sorted({HEAVY})); omni_export.ExportOptions; print({HEAVY})"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = result.stdout.splitlines()
    assert before == "[]"
    assert "torch" in after
