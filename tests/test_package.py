"""What is installed: the built-in bundle, whole, and the sources of our operators."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
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
