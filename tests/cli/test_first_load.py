"""A large bundle is prepared at its first load, once, and that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_cli import first_load
from omni_edge.backend.prepacked import PreparedGraphs
from omni_edge.bundle.reader import Bundle


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with an empty cache folder and without a C compiler, on which every bundle is large."""
    monkeypatch.setenv("OMNI_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMNI_EDGE_KERNELS", "0")
    monkeypatch.setattr(first_load, "_LARGE_BYTES", 0)


def test_it_happens_once(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first_load.prepare_at_first(bundle, wanted=True)
    said = capsys.readouterr().err
    assert said.startswith("preparing ")
    assert "thinker" in said
    assert PreparedGraphs.for_bundle(Bundle(bundle)).missing() == []
    first_load.prepare_at_first(bundle, wanted=True)
    assert capsys.readouterr().err == ""


def test_no_prepare_and_small_bundles_leave_it_out(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_load.prepare_at_first(bundle, wanted=False)
    monkeypatch.setattr(first_load, "_LARGE_BYTES", 1 << 40)
    first_load.prepare_at_first(bundle, wanted=True)
    assert capsys.readouterr().err == ""
    assert "thinker" in PreparedGraphs.for_bundle(Bundle(bundle)).missing()


def test_a_full_disk_is_said_and_does_no_harm(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni_edge.backend.prepacked._SIZE_FACTOR", 1e12)
    first_load.prepare_at_first(bundle, wanted=True)
    assert "warning: Preparing needs about" in capsys.readouterr().err
