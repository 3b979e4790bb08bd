"""Exported bundles in the place of the built-in model, for tests of the exporter and of what judges a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_edge import OmniEdge


@pytest.fixture(scope="session")
def bundle(exported_bundle: Path) -> Path:
    """The float32 bundle of `checkpoint`."""
    return exported_bundle


@pytest.fixture(scope="session")
def mute_bundle(exported_mute_bundle: Path) -> Path:
    """The INT8 bundle of `checkpoint`, without speech."""
    return exported_mute_bundle


@pytest.fixture(scope="session")
def engine(bundle: Path) -> OmniEdge:
    """`bundle`, loaded once."""
    return OmniEdge.load(bundle, threads=1)
