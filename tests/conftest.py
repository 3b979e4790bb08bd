"""Session-wide fixtures that need no torch: the tests' own cache, and our operators compiled in it."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_edge.backend.machine import processor
from support.needs_torch import HAS_TORCH, REASON
from support.operators import put_library, shared_folder

pytest_plugins = ["support.bundles", *(["support.reference_settings", "support.vocoders"] if HAS_TORCH else [])]

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that: tests of it would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Says which of the two environments this is."""
    return "torch is installed" if HAS_TORCH else f"without torch; what is skipped {REASON}"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that this machine's user has prepared takes part in a test.

    With COMPILED=1 our operators do, in all of them.
    """
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("OMNI_EDGE_CACHE", str(cache))
        if os.environ.get("COMPILED"):
            put_library(cache, shared_folder(tmp_path_factory))
        yield


def instruction_sets() -> list[str]:
    """What this processor can run, of what the operators' sources treat apart; an empty name is its own set."""
    if platform.machine() != "x86_64":
        return [""]
    return ["", "x86-64", *(["x86-64-v3"] if "avx2" in processor().split() else [])]


@pytest.fixture(scope="session", params=instruction_sets(), ids=lambda name: name or "native")
def compiled_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which our operators are compiled, for one instruction set after the other."""
    folder = tmp_path_factory.mktemp("compiled")
    if not put_library(folder, shared_folder(tmp_path_factory), request.param):
        pytest.skip("needs a C compiler")
    return folder


@pytest.fixture
def compiled(compiled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that are loaded now use our operators."""
    monkeypatch.delenv("OMNI_EDGE_KERNELS", raising=False)
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(compiled_cache))
