"""onnxruntime with its telemetry off; the only file that imports it.

From version 1.29 on onnxruntime keeps a device id and an event store below the user's cache folder and looks up a
telemetry host. It reads its switch once, at its import (measured with 1.32: neither a later change of the environment
nor `disable_telemetry_events` has an effect). So the switch is set during that import alone: the environment of the
host program, and what its children inherit, stay as they are.
"""

from __future__ import annotations

import os
import sys
import warnings

_SWITCH = "ORT_DISABLE_TELEMETRY"
_FIRST_WITH_TELEMETRY = (1, 29)

__all__ = ["ort"]

_imported_before_us = "onnxruntime" in sys.modules
_environment_value = os.environ.get(_SWITCH)
os.environ[_SWITCH] = "1"
try:
    import onnxruntime as ort
finally:
    if _environment_value is None:
        del os.environ[_SWITCH]
    else:
        os.environ[_SWITCH] = _environment_value

if (
    _imported_before_us
    and _environment_value in (None, "", "0")
    and tuple(int(part) for part in ort.__version__.split(".")[:2]) >= _FIRST_WITH_TELEMETRY
):
    warnings.warn(
        "onnxruntime was imported before omni_edge, with its telemetry on: it keeps a device id in your cache folder "
        f"and looks up a telemetry host. Import omni_edge first, or set {_SWITCH}=1 before Python starts.",
        RuntimeWarning,
        stacklevel=2,
    )
