"""Every example of docs/serve.md, run as it stands there, but for the address and the checkpoint's name."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.served import Served

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "serve.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"
REPLY = "The kitchen light is on."


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The commands that ask the server."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ")]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the files that the examples name."""
    shutil.copy2(ROOT / "tests" / "data" / "question.wav", tmp_path / "question.wav")
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("command", commands())
def test_a_command(server: Served, folder: Path, command: str) -> None:
    out = run(["bash", "-euo", "pipefail", "-c", command.replace(ADDRESS, server.address) + " -sS --fail"], folder)
    if "speech" in command:
        assert (folder / "spoken.wav").read_bytes()[:4] == b"RIFF"
    else:
        assert '"text": ' in out if "transcriptions" in command else REPLY in out


@pytest.mark.parametrize("snippet", blocks("python"))
def test_a_program(server: Served, folder: Path, snippet: str) -> None:
    # OpenAI's client opens its WebSocket in a way that websockets 17 warns of.
    assert REPLY in run([sys.executable, "-c", snippet.replace(ADDRESS, server.address)], folder)


def test_the_unit_of_systemd_starts_the_command_that_there_is() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(*blocks("ini"))
    assert [unit.sections(), unit["Install"]["WantedBy"]] == [["Unit", "Service", "Install"], "multi-user.target"]
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(program).name, words.pop(0)) == ("omni-edge", "serve")
    described = (ROOT / "docs" / "cli.md").read_text("utf-8").partition("## `omni-edge serve`")[2].partition("\n## ")[0]
    options = [word for word in words if word.startswith("-")]
    assert len(options) == 6
    assert [option for option in options if f" {option} " not in described and f" {option}," not in described] == []


def test_every_address_has_an_example_or_needs_none() -> None:
    asked = "".join(commands() + blocks("python"))
    assert all(name in asked for name in ("chat/completions", "audio/speech", "audio/transcriptions", "realtime"))
