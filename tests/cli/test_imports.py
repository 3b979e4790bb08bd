"""Running a bundle needs no torch, and help needs nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import omni_edge

# Stands before every other finder: whoever asks for one of these gets what a machine without them would give.
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "onnx", "optimum", "safetensors", "huggingface_hub"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_a_reply_needs_no_torch(bundle: Path, files: Path, tmp_path: Path) -> None:
    media = ["--audio", str(files / "question.wav"), "--video", str(files / "clip.mp4")]
    limits = ["--max-new-tokens", "4", "--max-codec-tokens", "30", "-o", str(tmp_path / "reply.wav")]
    result = run("from omni_cli.app import main; main()", "run", "Hello", "-m", str(bundle), *media, *limits)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "reply.wav").stat().st_size > 44


def test_an_export_without_its_packages_says_what_to_install(tmp_path: Path) -> None:
    result = run("from omni_cli.commands.export import main; main()", str(tmp_path), "--out", str(tmp_path / "bundle"))
    assert result.returncode == 2
    assert "pip install 'omni-edge[export]'" in result.stderr
    assert run("from omni_cli.commands.export import main; main()", "--help").returncode == 0


def test_the_public_names_are_sorted_and_exist() -> None:
    assert omni_edge.__all__ == sorted(omni_edge.__all__)
    assert all(hasattr(omni_edge, name) for name in omni_edge.__all__)
