"""Which of the libraries in a wheel suits a processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_edge import ResourceError
from omni_edge.backend import kernels
from omni_edge.backend.kernels import prebuilt
from omni_edge.backend.onnx_runtime import ort

HASWELL = "fpu sse2 avx avx2 fma f16c bmi2"
SKYLAKE_X = f"{HASWELL} avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "machine", "names"),
    [
        ("fpu sse2 avx", "x86_64", []),
        (HASWELL, "x86_64", ["avx2"]),
        (f"{HASWELL} avx_vnni", "x86_64", ["avx-vnni", "avx2"]),
        (SKYLAKE_X, "x86_64", ["avx2"]),
        (f"{SKYLAKE_X} avx512_vnni", "x86_64", ["avx512-vnni", "avx2"]),
        ("fp asimd", "aarch64", ["armv8"]),
        ("fp asimd asimddp", "aarch64", ["dotprod", "armv8"]),
        ("fp asimd asimddp i8mm", "aarch64", ["i8mm", "dotprod", "armv8"]),
        (HASWELL, "riscv64", []),
    ],
)
def test_the_best_class_of_a_processor(flags: str, machine: str, names: list[str]) -> None:
    assert [entry.name for entry in prebuilt.classes_of(frozenset(flags.split()), machine)] == names


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the libraries of an installed wheel, for a processor with AVX2 and VNNI."""
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "prebuilt")
    monkeypatch.setattr(prebuilt, "features", lambda: frozenset(f"{HASWELL} avx_vnni".split()))
    monkeypatch.setattr(prebuilt, "machine", lambda: "x86_64")
    monkeypatch.setattr(prebuilt, "find", prebuilt.find.__wrapped__)
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OMNI_EDGE_KERNELS", raising=False)
    (tmp_path / "prebuilt").mkdir()
    return tmp_path / "prebuilt"


def test_a_library_of_the_wheel_is_used_and_nothing_is_compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert kernels.compiled() is None
    (folder / f"avx2{prebuilt.SUFFIX}").write_bytes(b"")
    assert kernels.build() == kernels.compiled() == folder / f"avx2{prebuilt.SUFFIX}"
    (folder / f"avx-vnni{prebuilt.SUFFIX}").write_bytes(b"")
    assert kernels.compiled() == folder / f"avx-vnni{prebuilt.SUFFIX}"
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    assert kernels.compiled() is None


def test_what_was_compiled_on_this_machine_goes_first(folder: Path) -> None:
    (folder / f"avx2{prebuilt.SUFFIX}").write_bytes(b"")
    kernels._path().parent.mkdir()
    kernels._path().write_bytes(b"")
    assert kernels.compiled() == kernels._path()


def test_a_damaged_library_of_the_wheel_is_said(folder: Path) -> None:
    (folder / f"avx2{prebuilt.SUFFIX}").write_bytes(b"damaged")
    with pytest.raises(ResourceError, match=r"avx2.* do not load: .*Install omni-edge again\."):
        kernels.register(ort.SessionOptions())
