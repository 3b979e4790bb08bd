"""What is installed: the built-in bundle, whole, the sources of our operators, and on which systems and Pythons."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

import pytest
import tomllib
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from omni_edge import BundleError, OmniEdge, shipped_bundle
from omni_edge.bundle.manifest import MANIFEST_NAME
from omni_edge.bundle.reader import Bundle

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    """Bytes of each file of the built-in bundle, every hash checked."""
    files = Bundle(shipped_bundle(), verify=True).manifest.files
    assert {path.name for path in shipped_bundle().iterdir()} == {MANIFEST_NAME, *files}
    return {MANIFEST_NAME: (shipped_bundle() / MANIFEST_NAME).stat().st_size} | {
        name: entry.bytes for name, entry in files.items()
    }


def test_the_wheel_holds_the_built_in_bundle(sizes: dict[str, int], tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        held = {entry.filename: entry.file_size for entry in archive.infolist()}
    assert {name: held.get(f"omni_edge/bundle/builtin_model/{name}") for name in sizes} == sizes
    assert not [name for name in held if name.startswith(("nano/", "tests/"))]
    sources = [
        path
        for path in (ROOT / "runtime" / "omni_edge" / "backend" / "kernels").iterdir()
        if path.suffix in (".c", ".h")
    ]
    assert len(sources) >= 8
    assert {path.name: held.get(f"omni_edge/backend/kernels/{path.name}") for path in sources} == {
        path.name: path.stat().st_size for path in sources
    }


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
