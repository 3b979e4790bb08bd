"""`omni-export --calibration`: what the bundle says, faults, and an export that goes on amidst a calibration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omni_edge import OmniEdge
from omni_edge.bundle.reader import Bundle
from support.checkpoints import write_checkpoint
from support.commands import run_export

OPTIONS = ("--text-only", "--precision", "int4", "--group-size", "32")
TEXT = "The ferry left the harbour a little before six, and nobody spoke for a while after that.\n" * 6
# Kills itself when the layer named first is about to be calibrated.
KILLED = """
import os, signal, sys
from omni_cli.commands import export
from omni_export.calibration import calibrate

real = calibrate.ExportProgress

def fatal(item, *rest):
    if item == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(item, *rest)

calibrate.ExportProgress = fatal
export.run(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint", "ragged")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine") / "my-texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, "utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed export writes."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    result = run_export(source, "--out", out, "--calibration", texts, *OPTIONS)
    assert result.exit_code == 0, result.output
    assert "calibration of layer 2 of 2" in result.stderr
    return out


def thinker(bundle: Path) -> dict[str, Any]:
    return dict(json.loads((bundle / "bundle.json").read_text())["graphs"]["thinker"])


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


def test_the_manifest_says_what_was_done_to_each_matrix(whole: Path) -> None:
    graph = thinker(whole)
    assert graph["calibration"]["source"] == "my-texts"
    assert graph["calibration"]["tokens"] == len(TEXT.strip())
    assert len(graph["calibration"]["sha256"]) == 64
    layer = "/layers.{layer}"
    int4 = "int4 g32, zero points, 4.625 bits, GPTQ"
    assert {name: recipe for name, recipe in graph["recipes"].items() if name.startswith(layer)} == {
        f"{layer}/attn/qkv_proj.weight": int4,
        f"{layer}/attn/o_proj.weight": int4,
        f"{layer}/mlp/gate_up_proj.weight": int4,
        f"{layer}/mlp/down_proj.weight": int4,
    }
    assert graph["recipes"]["/lm_head.weight"] == "int8 g32, 8.5 bits, rounded"
    assert not any(path.is_dir() for path in whole.iterdir())
    assert OmniEdge.load(whole, threads=1).manifest == Bundle(whole, verify=True).manifest


def test_without_calibration_random_tokens_weight_the_search(source: Path, whole: Path, tmp_path: Path) -> None:
    result = run_export(source, "--out", tmp_path / "bundle", "--calibration", "none", *OPTIONS)
    assert result.exit_code == 0, result.output
    graph = thinker(tmp_path / "bundle")
    assert graph["calibration"] is None
    assert set(graph["recipes"].values()) == {
        "int4 g32, zero points, 4.625 bits, searched, weighted by random tokens",
        "int8 g32, 8.5 bits, rounded",
    }
    assert contents(tmp_path / "bundle")["thinker.onnx.data"] != contents(whole)["thinker.onnx.data"]


def test_an_int8_bundle_needs_no_calibration(source: Path, tmp_path: Path) -> None:
    result = run_export(source, "--out", tmp_path / "bundle", "--text-only", "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert thinker(tmp_path / "bundle")["calibration"] is None
    assert "calibration" not in result.stderr


@pytest.mark.parametrize("layer", [1, 2])
def test_a_killed_calibration_goes_on_to_the_same_bytes(
    layer: int, source: Path, texts: Path, whole: Path, tmp_path: Path
) -> None:
    words = [str(source), "--out", str(tmp_path / "bundle"), "--calibration", str(texts), *OPTIONS]
    program = [sys.executable, "-c", KILLED, f"calibration of layer {layer} of 2", *words]
    assert subprocess.run(program, capture_output=True, check=False).returncode == -9
    result = run_export(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert ("calibration of layer 1 of 2" in result.stderr) == (layer == 1)
    assert contents(tmp_path / "bundle") == contents(whole)


def test_other_files_in_the_folder_begin_anew(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, "utf-8")
    words = [str(source), "--out", str(tmp_path / "bundle"), "--calibration", str(folder), *OPTIONS]
    program = [sys.executable, "-c", KILLED, "calibration of layer 2 of 2", *words]
    assert subprocess.run(program, capture_output=True, check=False).returncode == -9
    (folder / "a.txt").write_text(TEXT + "More of it.", "utf-8")
    result = run_export(*words, "--resume")
    assert result.exit_code == 0, result.output
    assert "calibration of layer 1 of 2" in result.stderr
    assert thinker(tmp_path / "bundle")["calibration"]["tokens"] == len(TEXT + "More of it.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, b"", "is no folder"),
        ("notes.pdf", b"x", "holds nothing to calibrate with"),
        ("short.txt", b"Too short.", "holds too little"),
        ("latin.txt", b"caf\xe9", "latin.txt is not UTF-8 text"),
        ("broken.wav", b"RIFF....", "broken.wav"),
    ],
)
def test_a_folder_that_cannot_be_used_ends_the_export_before_it_writes(
    name: str | None, content: bytes, message: str, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "calibration"
    if name:
        folder.mkdir()
        (folder / name).write_bytes(content)
    out = tmp_path / "out" / "bundle"
    result = run_export(source, "--out", out, "--calibration", folder, *OPTIONS)
    assert result.exit_code == 4
    assert message in result.stderr
    assert not out.parent.exists()
