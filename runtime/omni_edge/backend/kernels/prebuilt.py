"""Operators that a wheel brings compiled, for the classes of processors that matter.

No imports but the standard library's: the build of a wheel uses it too.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "prebuilt"
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")

# Linux on ARM64: entry of the auxiliary vector, bit (asm/hwcap.h), and Linux's name of the feature.
_HWCAPS = ((16, 1 << 20, "asimddp"), (26, 1 << 13, "i8mm"))
# Windows: arguments of IsProcessorFeaturePresent (winnt.h). It has none for VNNI.
_WINDOWS_FEATURES = {40: "avx2", 43: "asimddp"}


@dataclass(frozen=True)
class ProcessorClass:
    """Processors for which one library is compiled.

    Attributes:
        name: also the library's.
        machine: as `platform.machine` calls it on Linux.
        flags: of GCC and Clang.
        features: what a processor must have, as Linux names it.
    """

    name: str
    machine: str
    flags: tuple[str, ...]
    features: frozenset[str]


_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi2"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# The best one of each machine first.
CLASSES = (
    ProcessorClass("avx512-vnni", "x86_64", ("-march=x86-64-v4", "-mavx512vnni"), _AVX512 | {"avx512_vnni"}),
    ProcessorClass("avx-vnni", "x86_64", ("-march=x86-64-v3", "-mavxvnni"), _AVX2 | {"avx_vnni"}),
    ProcessorClass("avx2", "x86_64", ("-march=x86-64-v3",), _AVX2),
    ProcessorClass("i8mm", "aarch64", ("-march=armv8.2-a+dotprod+i8mm",), frozenset({"asimddp", "i8mm"})),
    ProcessorClass("dotprod", "aarch64", ("-march=armv8.2-a+dotprod",), frozenset({"asimddp"})),
    ProcessorClass("armv8", "aarch64", ("-march=armv8-a",), frozenset()),
)


def machine() -> str:
    """This machine's name as Linux has it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def classes_of(features: frozenset[str], machine_name: str) -> list[ProcessorClass]:
    """The classes of a processor with these features, the best one first."""
    return [entry for entry in CLASSES if entry.machine == machine_name and entry.features <= features]


@cache
def find() -> Path | None:
    """The library that the installed package brings for this processor; None if it brings none."""
    paths = (FOLDER / f"{entry.name}{SUFFIX}" for entry in classes_of(features(), machine()))
    return next((path for path in paths if path.is_file()), None)


@cache
def features() -> frozenset[str]:
    """What this processor can do, as Linux names it; of macOS and Windows what these say of it."""
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        found = {name for number, name in _WINDOWS_FEATURES.items() if present(number)}
        # Processors with AVX2 have them; Windows has no number for them.
        return frozenset(found | (_AVX2 if "avx2" in found else set()))
    if sys.platform == "darwin":
        # Every Mac that macOS 13 runs on: Apple's own processors, and Intel's from 2017 on.
        return frozenset({"asimddp"}) if machine() == "aarch64" else _AVX2
    if machine() == "aarch64":
        value = ctypes.CDLL(None).getauxval
        value.restype, value.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
        return frozenset(name for entry, bit, name in _HWCAPS if value(entry) & bit)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())
