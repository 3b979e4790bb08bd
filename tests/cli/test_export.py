"""`omni-export`, `omni-export verify` and `optimum-cli export omni-edge`."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omni_cli.console import Progress
from support.commands import run_edge, run_export
from support.needs_torch import HAS_TORCH, skip


def test_the_table_and_the_progress(checkpoint: Path, tmp_path: Path) -> None:
    options = ("--precision", "int8", "--precision-of", "thinker=fp32", "--precision-of", "talker=int4")
    result = run_export(checkpoint, "--out", tmp_path / "mixed", *options, "--group-size", 32, "--voice", "Ethan")
    assert result.exit_code == 0, result.output
    table = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    manifest = json.loads((tmp_path / "mixed" / "bundle.json").read_text())
    for role, graph in manifest["graphs"].items():
        assert f" {graph['nodes']} " in table[role]
        assert graph["precision"] in table[role]
    assert manifest["graphs"]["thinker"]["precision"] == "fp32"
    assert manifest["graphs"]["talker"]["precision"] == "int4 g32"
    assert list(manifest["voices"]["speakers"]) == ["Ethan"]
    stages = [line.split()[0] for line in result.stderr.splitlines() if "%" in line]
    assert [stage for index, stage in enumerate(stages) if stage not in stages[:index]] == list(manifest["graphs"])
    assert re.search(r"^bigvgan  100 %  of [\d.]+ MB   all 100 % of [\d.]+ MB, 0:00 left$", result.stderr, re.MULTILINE)
    assert re.search(r"^token_embedding    0 %  of [\d.]+ kB   all +\d+ % of ", result.stderr, re.MULTILINE)
    assert all(re.search(r" [\d.]+ [kM]?B +\d+\.\d$", table[role]) for role in manifest["graphs"])
    assert re.search(r"mixed  [\d.]+ MB  in 0:\d\d$", result.stdout.rstrip())
    assert run_edge("info", tmp_path / "mixed").exit_code == 0


def test_verify_passes_on_a_good_bundle(checkpoint: Path, exported_bundle: Path) -> None:
    result = run_export("verify", exported_bundle, "--against", checkpoint)
    assert result.exit_code == 0, result.output
    manifest = json.loads((exported_bundle / "bundle.json").read_text())
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert all(row[-1] == "ok" for row in rows)
    assert {row[0] for row in rows} == set(manifest["graphs"])


def test_verify_fails_on_a_wrong_weight_and_names_its_graph(
    checkpoint: Path, exported_mute_bundle: Path, tmp_path: Path
) -> None:
    """The hash is made to fit: what is wrong is the computation."""
    bundle = shutil.copytree(exported_mute_bundle, tmp_path / "wrong")
    manifest = json.loads((bundle / "bundle.json").read_text())
    name = manifest["graphs"]["thinker"]["data"]
    weights = bytearray((bundle / name).read_bytes())
    weights[: len(weights) // 2] = bytes(len(weights) // 2)
    (bundle / name).write_bytes(weights)
    manifest["files"][name]["sha256"] = hashlib.sha256(weights).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    result = run_export("verify", bundle, "--against", checkpoint)
    assert result.exit_code == 1, result.output
    verdicts = {line.split()[0]: line.split()[-1] for line in result.stdout.splitlines()[1:]}
    assert [graph for graph, verdict in verdicts.items() if verdict != "ok"] == ["thinker"]
    assert result.stderr.splitlines()[-1].startswith("error: thinker ")


def test_ctrl_c_during_export_leaves_no_bundle(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes when the Thinker's weights are being written."""
    show = Progress.__call__

    def interrupt(self: Progress, stage: str, *news: Any) -> None:
        show(self, stage, *news)
        if stage == "thinker":
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "__call__", interrupt)
    result = run_export(checkpoint, "--out", tmp_path / "bundle")
    assert result.exit_code == 130, result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "bundle").exists()
    monkeypatch.undo()
    for leftover in tmp_path.iterdir():
        refused = run_edge("info", leftover)
        assert refused.exit_code == 3, refused.output
    result = run_export(checkpoint, "--out", tmp_path / "bundle", "--resume")
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert run_edge("info", tmp_path / "bundle").exit_code == 0


def optimum(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = "from optimum.commands.optimum_cli import main; main()"
    command = [sys.executable, "-c", program, "export", "omni-edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_optimum_knows_the_command(checkpoint: Path, tmp_path: Path) -> None:
    result = optimum("--out", tmp_path / "bundle", checkpoint, "--precision", "int8", "--text-only")
    assert result.returncode == 0, result.stderr
    assert "thinker" in result.stdout
    assert run_edge("info", tmp_path / "bundle").exit_code == 0


def test_optimum_shows_the_commands_own_help() -> None:
    if not HAS_TORCH:
        skip()
    result = optimum("--help")
    assert result.returncode == 0, result.stderr
    assert "optimum-cli export omni-edge" in result.stdout
    for option in ("--precision-of", "--group-size", "--text-only", "--voice"):
        assert option in result.stdout
