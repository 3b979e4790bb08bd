"""Session-wide fixtures: the small checkpoints and their reference models, made once."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from omni_edge import OmniEdge
from omni_edge.backend import kernels
from omni_edge.backend.machine import processor
from omni_export.bundle import ExportOptions, export_bundle
from omni_quant.precision import Precision
from support.checkpoints import SHAPES, Case, load_reference, write_checkpoint

pytest_plugins = ["support.bundles", "support.vocoders"]

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that: tests of it would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
# It warns of every id beyond the Talker's own small vocabulary, for the published configuration as well.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that this machine's user has prepared takes part in a test.

    With COMPILED=1 our operators do, in all of them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNI_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        if os.environ.get("COMPILED"):
            kernels.build()
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNI_EDGE_CACHE", str(folder))
        patch.delenv("OMNI_EDGE_KERNELS", raising=False)
        if request.param:
            patch.setattr(kernels, "_TARGETS", ((f"-march={request.param}",),))
        if kernels.build() is None:
            pytest.skip("needs a C compiler")
    return folder


@pytest.fixture
def compiled(compiled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that are loaded now use our operators."""
    monkeypatch.delenv("OMNI_EDGE_KERNELS", raising=False)
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(compiled_cache))


@pytest.fixture(scope="session", params=sorted(SHAPES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each of the differently shaped checkpoints in turn."""
    path = write_checkpoint(tmp_path_factory.mktemp(f"checkpoint-{request.param}"), request.param)
    return Case(request.param, path)


@pytest.fixture(scope="session")
def reference(case: Case) -> Any:
    """The reference model of `case`, float32."""
    return load_reference(case.path, case.name)


@pytest.fixture(scope="session")
def fp32_bundle(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle of `case`."""
    out = tmp_path_factory.mktemp("bundles") / f"{case.name}-fp32"
    export_bundle(str(case.path), out, ExportOptions(Precision()))
    return out


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 bundle of `checkpoint`, for tests to which the shape of the model does not matter."""
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    export_bundle(str(checkpoint), out, ExportOptions(Precision()))
    return out


@pytest.fixture(scope="session")
def engine(bundle: Path) -> OmniEdge:
    """`bundle`, loaded once."""
    return OmniEdge.load(bundle, threads=1)
