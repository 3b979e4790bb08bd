"""The fused activation is compiled by the runtime's compiler, into the runtime's cache folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nano.model import fast_snake
from omni_edge import ResourceError
from omni_edge.backend.kernels.compiler import find_compiler

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and no library from before or for later."""
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMNI_EDGE_KERNELS", raising=False)
    fast_snake._library.cache_clear()
    yield tmp_path / "cache"
    fast_snake._library.cache_clear()


def compiler(path: Path, script: str) -> str:
    """A program in the place of a C compiler."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_named_compiler_compiles_it_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = find_compiler()
    if real is None:
        pytest.skip("needs a C compiler")
    calls = tmp_path / "calls"
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", f'echo call >> {calls}\nexec {real} "$@"'))
    for _ in range(2):
        library = fast_snake._library()
        assert library is not None
        assert library.snake_forward
        assert library.snake_backward
        fast_snake._library.cache_clear()
    assert calls.read_text() == "call\ncall\n"  # an object, and the library of it
    assert [path.suffix for path in cache.iterdir()] == [".so"]


@pytest.mark.skipif(find_compiler() is None, reason="needs a C compiler")
def test_whoever_loads_it_keeps_denormal_numbers(cache: Path) -> None:
    code = "import sys; from nano.model.fast_snake import _library; assert _library(); print(sys.float_info.min / 2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) > 0


def test_a_compiler_that_fails_leaves_nothing(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", "exit 3"))
    with pytest.raises(ResourceError, match="exit code 3"):
        fast_snake._library()
    assert list(cache.iterdir()) == []


def test_without_a_compiler_there_is_none(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("CC", raising=False)
        patch.setenv("PATH", str(tmp_path))
        assert fast_snake._library() is None
    fast_snake._library.cache_clear()
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    assert fast_snake._library() is None
    assert not cache.exists()
