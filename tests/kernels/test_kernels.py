"""The C operators are compiled once, for this machine, and completely or not at all."""

from __future__ import annotations

import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omni_edge import ResourceError
from omni_edge.backend import file_lock, kernels
from omni_edge.backend.kernels import compiler as c_compiler
from omni_edge.backend.machine import cache_root
from omni_edge.backend.onnx_runtime import ort
from support.operators import put_library, shared_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMNI_EDGE_KERNELS", raising=False)
    return tmp_path / "cache"


def compiler(path: Path, script: str) -> str:
    """A program in the place of a C compiler."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_library_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.compiled() is None
    built = kernels.build()
    if built is None:
        pytest.skip("needs a C compiler")
    assert built == kernels.compiled()
    assert built.parent == cache_root()
    ort.SessionOptions().register_custom_ops_library(str(built))
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert kernels.build() == built
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    assert kernels.compiled() is None
    assert kernels.build() is None


def test_the_sources_give_no_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_compiler, "FLAGS", (*c_compiler.FLAGS, "-Wall", "-Wextra", "-Werror"))
    if kernels.build() is None:
        pytest.skip("needs a C compiler")


@pytest.fixture
def built(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as `kernels.build` leaves it."""
    if not put_library(cache, shared_folder(tmp_path_factory)):
        pytest.skip("needs a C compiler")
    path = kernels.compiled()
    assert path is not None
    return path


def test_another_processor_or_version_compiles_anew(
    built: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(built, tmp_path / "again.so")
    copies = f'while [ "$1" != -o ]; do shift; done; cp {tmp_path / "again.so"} "$2"'
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", copies))
    monkeypatch.setattr(kernels, "_version", lambda: "0123456789abcdef")
    assert kernels.compiled() is None
    assert kernels.build() == kernels.compiled()
    assert [path.stem for path in cache.iterdir()] == ["kernels-0123456789abcdef"]


def test_two_processes_compile_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process waits, and takes the library of the first."""
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", "echo 'compiled twice' >&2; exit 1"))
    cache.mkdir()
    waiting = threading.Event()
    hold = file_lock.locked
    monkeypatch.setattr(kernels, "locked", lambda path, on_busy: hold(path, lambda _: waiting.set()))
    with ThreadPoolExecutor(1) as pool:
        with hold(cache / "compiling.lock", lambda _: None):
            second = pool.submit(kernels.build)
            assert waiting.wait(60)
            kernels._path().write_bytes(b"library")
        assert second.result() == kernels._path()
    assert [path.name for path in cache.iterdir()] == [kernels._path().name]


def test_a_change_of_a_source_or_a_flag_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in kernels._FOLDER.glob("*.[ch]"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    version = kernels._version.__wrapped__
    before = version()
    monkeypatch.setattr(kernels, "_FOLDER", tmp_path)
    assert version() == before
    for name in ("linear_rows.c", "simd.h"):
        with (tmp_path / name).open("a") as source:
            source.write("\n")
        assert version() != before
        before = version()
    monkeypatch.setattr(c_compiler, "FLAGS", (*c_compiler.FLAGS, "-g"))
    assert version() != before


def test_without_a_compiler_standard_operators_do_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernels.build() is None
    options = ort.SessionOptions()
    kernels.register(options)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'snake.c:1: error: no' >&2; exit 1", "does not compile the operators: snake.c:1: error: no"),
        ("exit 3", "exit code 3"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing(
    script: str, message: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", script))
    with pytest.raises(ResourceError, match=message):
        kernels.build()
    assert list(cache.iterdir()) == []


def test_what_is_no_library_is_not_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes_text = 'while [ "$1" != -o ]; do shift; done; echo text > "$2"'
    monkeypatch.setenv("CC", compiler(tmp_path / "cc", writes_text))
    with pytest.raises(ResourceError, match="do not load"):
        kernels.build()
    assert list(cache.iterdir()) == []


def test_a_damaged_library_is_said(built: Path) -> None:
    built.write_bytes(built.read_bytes()[:100])
    with pytest.raises(ResourceError, match=r"do not load.*Delete that file; `omni-edge prepare` makes it again"):
        kernels.register(ort.SessionOptions())
