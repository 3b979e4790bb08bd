"""Puts compiled operators into a wheel; hatchling calls it.

`pip install .` compiles them for the processor at hand. Where there is no C compiler, the wheel has none, and the
package says so when it runs. With OMNI_EDGE_WHEEL_PLATFORM=manylinux_2_28_aarch64, or another platform's tag, they are
compiled for all classes of that platform's processors, by $CC, and the wheel gets that tag. An editable install has
none: `omni-edge prepare` compiles them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_FOLDER = Path("runtime", "omni_edge", "backend", "kernels")
_PLATFORM = "OMNI_EDGE_WHEEL_PLATFORM"
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_SUFFIXES = {"win": ".dll", "macosx": ".dylib"}


class CompiledOperators(BuildHookInterface):
    """The hook."""

    _made: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, and names the files and the tag of the wheel."""
        if version == "editable":
            return
        platform = os.environ.get(_PLATFORM)
        compiler, prebuilt = self._load("compiler"), self._load("prebuilt")
        command = compiler.find_compiler()
        if command is None:
            if platform:
                raise SystemExit(f"{_PLATFORM} is set, and there is no C compiler. Install one, or name it in $CC.")
            self.app.display_warning("There is no C compiler: the operators in C are left out.")
            return
        if platform:
            machine = next((value for key, value in _MACHINES.items() if platform.endswith(key)), None)
            classes = [entry for entry in prebuilt.CLASSES if entry.machine == machine]
            if not classes:
                raise SystemExit(f"{_PLATFORM}={platform} names no known processor: {', '.join(_MACHINES)}.")
        else:
            classes = prebuilt.classes_of(prebuilt.features(), prebuilt.machine())[:1]
            platform = re.sub(r"\W", "_", sysconfig.get_platform())
        suffix = next((value for key, value in _SUFFIXES.items() if platform.startswith(key)), ".so")
        self._made = tempfile.TemporaryDirectory()
        sources = sorted(Path(self.root, _FOLDER).glob("*.c"))
        for entry in classes:
            library = Path(self._made.name, f"{entry.name}{suffix}")
            try:
                compiler.compile_library(command, sources, library, ["-s"], [entry.flags])
            except compiler.CompileError as error:
                self._made.cleanup()
                if os.environ.get(_PLATFORM):
                    raise SystemExit(f"{command} does not compile the operators for {entry.name}: {error}") from None
                self.app.display_warning(f"The operators in C are left out: {command} does not compile them: {error}")
                return
            _check_glibc(library, platform)
            build_data["force_include"][str(library)] = f"omni_edge/backend/kernels/prebuilt/{library.name}"
        if classes:
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The libraries are in the wheel now."""
        if self._made is not None:
            self._made.cleanup()

    def _load(self, name: str) -> ModuleType:
        """A module of the package that imports nothing but the standard library."""
        spec = importlib.util.spec_from_file_location(f"omni_edge_{name}", Path(self.root, _FOLDER, f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module


def _check_glibc(library: Path, platform: str) -> None:
    """A `manylinux` tag promises that no symbol of a later glibc is needed."""
    if promised := re.match(r"manylinux_2_(\d+)_", platform):
        needed = max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())), default=0)
        if needed > int(promised[1]):
            raise SystemExit(f"{library.name} needs glibc 2.{needed}: name a later platform, or an older compiler.")
