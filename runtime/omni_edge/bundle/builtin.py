"""The bundle that comes with the package: omni-nano, a demonstration and test model (not Qwen's weights)."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from omni_edge.bundle.manifest import MANIFEST_NAME
from omni_edge.errors import BundleError

_PACKAGE, _FOLDER = "omni_edge.bundle", "builtin_model"


def shipped_bundle() -> Path:
    """The folder of the built-in bundle; `OmniEdge.load()` takes it when no other is named.

    Raises:
        BundleError: this installation has none: its files were left out, or it lies in an archive that graphs cannot
            be mapped from.
    """
    folder = importlib.resources.files(_PACKAGE).joinpath(_FOLDER)
    if not isinstance(folder, Path) or not (folder / MANIFEST_NAME).is_file():
        raise BundleError(
            f"This installation has no built-in model: {folder} holds no {MANIFEST_NAME}. "
            "Install omni-edge again from its wheel, or name a bundle: -m BUNDLE, OmniEdge.load(BUNDLE)."
        )
    return folder
