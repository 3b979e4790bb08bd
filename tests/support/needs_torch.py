"""The one place where a test that needs torch is skipped because there is none.

The runtime and its commands are tested in environments without the packages of the `export` extra. There, a test file
or a test that imports one of them (the exporter does, and so does the reference implementation) is skipped with this
reason. Where torch is installed nothing is skipped: what does not import then is an error.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import NoReturn

import pytest

EXPORT_PACKAGES = frozenset({"accelerate", "onnx", "optimum", "safetensors", "torch", "transformers"})
REASON = "needs torch: an export, or a comparison with the reference (pip install 'omni-edge[export]')"


class _Absent:
    """The last finder: it is asked for what no other finder has."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] in EXPORT_PACKAGES:
            skip()
        return None


def skip() -> NoReturn:
    """Skips the test file or the test that is running."""
    pytest.skip(REASON, allow_module_level=True)


def has_torch() -> bool:
    """Whether the packages of the `export` extra are installed."""
    return "torch" in sys.modules or find_spec("torch") is not None


HAS_TORCH = has_torch()
if not HAS_TORCH:
    sys.meta_path.append(_Absent())
