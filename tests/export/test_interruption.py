"""Exports that end too early: killed, out of disk, damaged afterwards; and what goes on from there."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from omni_edge import BundleError, ResourceError
from omni_edge.bundle.reader import Bundle
from omni_export.bundle import ExportOptions, export_bundle
from omni_quant.precision import Kind, Precision
from support.checkpoints import write_checkpoint

OPTIONS = ("--precision", "int4", "--group-size", "32", "--kv-cache", "int8", "--calibration", "none")
# Kills itself when half of a graph's weights are written.
KILLED = """
import os, signal, sys
from omni_cli.commands.export import run
from omni_export.output.progress import ProgressMeter

wrote = ProgressMeter.wrote

def fatal(self, nbytes, weights):
    wrote(self, nbytes, weights)
    if self._item == sys.argv[1] and 2 * self._item_done > self._item_total:
        os.kill(os.getpid(), signal.SIGKILL)

ProgressMeter.wrote = fatal
run(sys.argv[2:])
"""
EXPORT = "import sys; from omni_cli.commands.export import run; run(sys.argv[1:])"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint", "sectionless")


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed export writes."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    export_bundle(str(source), out, options())
    return out


@pytest.fixture(scope="module")
def killed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an export leaves that was killed amidst its last graph but one."""
    out = tmp_path_factory.mktemp("killed") / "bundle"
    assert export("dit", source, "--out", out, *OPTIONS, program=KILLED).returncode == -9
    return out.with_name("bundle.partial")


@pytest.fixture
def partial(killed: Path, tmp_path: Path) -> Path:
    """The same, to go on from to `tmp_path / "bundle"`."""
    return Path(shutil.copytree(killed, tmp_path / "bundle.partial"))


def options(*, resume: bool = False) -> ExportOptions:
    return ExportOptions(Precision(Kind.INT4, 32), int8_cache=True, resume=resume, calibration="none")


def export(*words: object, program: str = EXPORT, file_limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """`omni-export` in a process of its own, which may write no file larger than `file_limit` bytes."""

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("stage", ["vision_encoder", "thinker"])
def test_a_killed_export_goes_on_and_ends_with_the_same_bytes(
    source: Path, whole: Path, tmp_path: Path, stage: str
) -> None:
    out, partial = tmp_path / "bundle", tmp_path / "bundle.partial"
    assert export(stage, source, "--out", out, *OPTIONS, program=KILLED).returncode == -9
    assert not out.exists()
    with pytest.raises(BundleError):
        Bundle(partial)
    finished = {path.name: path.stat().st_mtime_ns for path in partial.iterdir()}
    assert f"{stage}.onnx.data" in finished
    assert f"{stage}.onnx" not in finished
    export_bundle(str(source), out, options(resume=True))
    assert contents(out) == contents(whole)
    kept = {name for name, written in finished.items() if (out / name).exists() and written == mtime(out / name)}
    order = ["audio_encoder", "vision_encoder", "token_embedding", "thinker"]
    before = order[: order.index(stage)]
    assert kept == {f"{role}.onnx{suffix}" for role in before for suffix in ("", ".data")}
    assert not partial.exists()


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


@pytest.mark.parametrize("damage", ["a byte", "cut", "gone", "notes", "stray"])
def test_what_was_damaged_since_is_written_anew(source: Path, whole: Path, partial: Path, damage: str) -> None:
    weights = partial / "token_embedding.onnx.data"
    content = bytearray(weights.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:-1])
    elif damage == "gone":
        weights.unlink()
    elif damage == "notes":
        notes = partial / "progress.json"
        notes.write_bytes(notes.read_bytes()[:-20])
    else:
        (partial / "folder").mkdir()
        (partial / "folder" / "file").touch()
    out = partial.with_name("bundle")
    export_bundle(str(source), out, options(resume=True))
    assert contents(out) == contents(whole)


def test_a_full_disk_is_said_and_the_export_can_go_on(source: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    sizes = {path.name: path.stat().st_size for path in whole.iterdir()}
    limit = sizes["bigvgan.onnx.data"] // 4
    full = export(source, "--out", out, "--precision", "fp32", "--group-size", 32, file_limit=limit)
    assert full.returncode == 6, full.stderr
    assert "Traceback" not in full.stderr
    assert full.stderr.splitlines()[-1].startswith("error: Writing ")
    assert "Free some disk space and go on with --resume, or choose another --out." in full.stderr
    assert not out.exists()
    assert not (tmp_path / "bundle.partial" / "bundle.json").exists()
    export_bundle(str(source), out, ExportOptions(Precision(group_size=32), resume=True))
    Bundle(out, verify=True)


def test_too_small_a_disk_is_said_before_anything_is_computed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_000_000})())
    monkeypatch.delattr("omni_export.graph.builder.GraphBuilder.save")
    with pytest.raises(ResourceError, match=r"needs 0\.\d\d GB, and .* has 0\.00 GB free\. Free some disk space"):
        export_bundle(str(source), tmp_path / "bundle", options())
    assert not (tmp_path / "bundle").exists()


def test_notes_of_another_version_are_not_trusted(source: Path, partial: Path) -> None:
    out = partial.with_name("bundle")
    notes = json.loads((partial / "progress.json").read_text())
    notes["fingerprint"]["generator"] = "0.0"
    (partial / "progress.json").write_text(json.dumps(notes))
    before = mtime(partial / "audio_encoder.onnx.data")
    export_bundle(str(source), out, options(resume=True))
    assert mtime(out / "audio_encoder.onnx.data") > before
