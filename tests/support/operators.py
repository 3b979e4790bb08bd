"""Our operators compiled for the tests: once for each instruction set, for all workers and all runs of `.ci/run`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from omni_edge.backend import kernels
from omni_edge.backend.kernels import compiler

# `.ci/run` names one folder for its runs.
_SHARED = "OMNI_EDGE_TEST_OPERATORS"


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled libraries are kept: one folder for all workers of a run."""
    if named := os.environ.get(_SHARED):
        return Path(named)
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "operators"


def put_library(cache: Path, shared: Path, instruction_set: str = "") -> bool:
    """Puts the operators, compiled for an instruction set (empty: the processor's own), into a cache folder.

    Returns:
        False where there is no C compiler.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNI_EDGE_CACHE", str(shared / (instruction_set or "native")))
        patch.delenv("OMNI_EDGE_KERNELS", raising=False)
        if instruction_set:
            patch.setattr(compiler, "THIS_PROCESSOR", ((f"-march={instruction_set}",),))
        library = kernels.build()
    if library is None:
        return False
    cache.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library, cache / library.name)
    return True
