"""What is installed: the built-in bundle, whole, the sources of our operators, and on which systems and Pythons."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import tomllib
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from omni_edge import BundleError, OmniEdge, shipped_bundle
from omni_edge.backend.kernels import prebuilt
from omni_edge.backend.kernels.compiler import find_compiler
from omni_edge.bundle.manifest import MANIFEST_NAME
from omni_edge.bundle.reader import Bundle

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "runtime" / "omni_edge" / "backend" / "kernels"


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    """Bytes of each file of the built-in bundle, every hash checked."""
    files = Bundle(shipped_bundle(), verify=True).manifest.files
    assert {path.name for path in shipped_bundle().iterdir()} == {MANIFEST_NAME, *files}
    return {MANIFEST_NAME: (shipped_bundle() / MANIFEST_NAME).stat().st_size} | {
        name: entry.bytes for name, entry in files.items()
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` builds here."""
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(path)


def test_the_wheel_holds_the_built_in_bundle(sizes: dict[str, int], wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert {name: held.get(f"omni_edge/bundle/builtin_model/{name}") for name in sizes} == sizes
    assert not [name for name in held if name.startswith(("nano/", "tests/"))]
    sources = [path for path in SOURCES.iterdir() if path.suffix in (".c", ".h")]
    assert len(sources) >= 8
    assert {path.name: held.get(f"omni_edge/backend/kernels/{path.name}") for path in sources} == {
        path.name: path.stat().st_size for path in sources
    }
    assert wheel.stat().st_size < 25e6


@pytest.mark.skipif(find_compiler() is None, reason="needs a C compiler")
def test_the_wheel_brings_operators_for_machines_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    (best, *_) = prebuilt.classes_of(prebuilt.features(), prebuilt.machine())
    tag = re.sub(r"\W", "_", sysconfig.get_platform())
    assert wheel.name.endswith(f"-py3-none-{tag}.whl")
    with zipfile.ZipFile(wheel) as archive:
        libraries = [name for name in archive.namelist() if "/prebuilt/" in name]
        archive.extractall(tmp_path / "site")
    assert libraries == [f"omni_edge/backend/kernels/prebuilt/{best.name}{prebuilt.SUFFIX}"]
    code = "from omni_edge.backend import kernels; print(kernels.build()); from omni_cli.app import main; main()"
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", "--stage", "load", "--runs", "1", "--json"],
        # No compiler, and no clone: the modules are those of the wheel.
        env={"PATH": "", "PYTHONPATH": str(tmp_path / "site"), "OMNI_EDGE_CACHE": str(cache), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    library, report = done.stdout.split("\n", 1)
    assert library == str(tmp_path / "site" / libraries[0])
    assert json.loads(report)["versions"]["operators"] == "compiled"
    assert not list(cache.glob("kernels-*"))


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_a_wheel_without_operators_is_one_for_any_machine(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.delenv("OMNI_EDGE_WHEEL_PLATFORM", raising=False)
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    assert path.endswith("-py3-none-any.whl")


@pytest.mark.parametrize(
    ("compiler", "platform", "message"),
    [
        (
            "/no/such/compiler",
            "manylinux_2_28_x86_64",
            "does not compile the operators for avx512-vnni",
        ),
        ("cc", "manylinux_2_28_riscv64", "names no known processor"),
    ],
)
def test_a_wheel_for_a_platform_has_operators_or_is_not_built(
    compiler: str, platform: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("OMNI_EDGE_WHEEL_PLATFORM", platform)
    with pytest.raises(SystemExit, match=message):
        next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    assert list(tmp_path.iterdir()) == []


def test_the_source_archive_holds_it_as_well(sizes: dict[str, int], tmp_path: Path) -> None:
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(sdist) as archive:
        held = {entry.name.partition("/")[2]: entry.size for entry in archive}
    assert {name: held.get(f"runtime/omni_edge/bundle/builtin_model/{name}") for name in sizes} == sizes


def test_the_library_loads_it_when_no_other_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = OmniEdge.load(threads=1, verify=True)
    assert engine.model.bundle.path == shipped_bundle()
    assert engine.voices == ["Chelsie", "Ethan"]
    monkeypatch.setattr("omni_edge.bundle.builtin._FOLDER", "nothing")
    with pytest.raises(BundleError, match="no built-in model"):
        OmniEdge.load()


def matrices(name: str) -> list[set[str]]:
    """The values of `name` in each matrix of the workflow."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    lines = re.findall(rf"^ +{name}: \[(.+)\]$", workflow, re.MULTILINE)
    return [{value.strip(' "') for value in line.split(",")} for line in lines]


def test_the_workflow_runs_what_the_classifiers_promise() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    classifiers = project["classifiers"]
    prefix = "Programming Language :: Python :: "
    pythons = [name.removeprefix(prefix) for name in classifiers if name.startswith(prefix)]
    assert project["requires-python"] == f">={pythons[0]}"
    first, last = (int(version.removeprefix("3.")) for version in (pythons[0], pythons[-1]))
    assert pythons == [f"3.{minor}" for minor in range(first, last + 1)]
    assert matrices("python") == [set(pythons)] * 2
    systems = {
        system.rpartition(" :: ")[2].lower() for system in classifiers if system.startswith("Operating System :: ")
    }
    runners = {"ubuntu": "linux", "macos": "macos", "windows": "windows"}
    full, without_torch = matrices("os")
    assert {runners[name.partition("-")[0]] for name in without_torch} == systems
    assert full == {"ubuntu-latest", "ubuntu-24.04-arm"}
    assert matrices("operators") == [{"onnxruntime", "compiled"}]


def test_every_dependency_has_a_lower_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *(name for extra in extras.values() for name in extra)]
    unbound = [name for name in required if not name.startswith("omni-edge[") and not re.match(r"[\w.-]+>=\d", name)]
    assert unbound == []
    assert not any(name.startswith(("torch", "transformers", "onnx")) for name in extras["dev"] + extras["chat"])
