"""Every command and snippet of the README, run as it stands there.

What differs from a reader's terminal: the published checkpoint is the small random one (under the published one's
names), the environment is the one that runs the tests (`.venv` is a link to it, so the steps that make it are left out;
`.ci/run` is what runs those), and the files named in the commands are made here, but for the repository's examples.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import wave
from pathlib import Path
from xml.etree import ElementTree

import cv2
import pytest

from support.checkpoints import write_checkpoint
from support.commands import picture, tone, write_video, write_wav

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PUBLISHED = "Qwen/Qwen2.5-Omni-3B"
LOCAL = PUBLISHED.rpartition("/")[2]
MAKES_ENVIRONMENT = ("python3 -m venv .venv", ".venv/bin/pip install ")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, lines that continue joined."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ").strip() for block in found]


FIRST, START, MORE, TESTS = ([step.strip() for step in block.split("&&")] for block in blocks("bash"))


@pytest.fixture(scope="module")
def first_room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository's examples, in which the very first command has been run."""
    folder = tmp_path_factory.mktemp("first")
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    run_all(FIRST, folder)
    return folder


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README names, in which the command that exports has been run."""
    folder = tmp_path_factory.mktemp("readme")
    write_checkpoint(folder / LOCAL, "sectionless")
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    write_wav(folder / "question.wav", tone(1.3))
    cv2.imwrite(str(folder / "photo.jpg"), picture(60, 80))
    write_video(folder / "clip.mp4")
    run_all(START, folder)
    return folder


def run_all(steps: list[str], folder: Path) -> None:
    """Runs the steps that do not make the environment."""
    for step in steps:
        if not step.startswith(MAKES_ENVIRONMENT):
            run(step, folder)


def run(command: str, folder: Path) -> str:
    """Runs a line of the README in a shell; returns its stdout."""
    path = f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.replace(PUBLISHED, LOCAL)],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMNI_EDGE_CACHE": str(folder / "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def test_the_first_command_speaks_and_draws_it(first_room: Path) -> None:
    with wave.open(str(first_room / "reply.wav")) as file:
        assert file.getframerate() == 24_000
        seconds = file.getnframes() / file.getframerate()
    assert seconds > 0
    texts = [text.text or "" for text in ElementTree.parse(first_room / "reply.svg").iter() if text.text]
    assert f"Chelsie, {seconds:.2f} s, 24 kHz" in texts


def test_its_pictures_are_there() -> None:
    shown = re.findall(r"^!\[[^]]+\]\(([^)]+)\)$", README, re.MULTILINE)
    assert len(shown) == 2
    assert all(ElementTree.parse(ROOT / picture).getroot().tag.endswith("svg") for picture in shown)


def test_the_exported_model_speaks(room: Path) -> None:
    with wave.open(str(room / "reply.wav")) as file:
        assert file.getframerate() == 24_000


@pytest.mark.parametrize("command", MORE[0].splitlines())
def test_a_command(room: Path, command: str) -> None:
    assert run(command, room).strip()


def test_the_library_snippet(first_room: Path) -> None:
    (snippet,) = blocks("python")
    (first_room / "snippet.py").write_text(snippet)
    run("python snippet.py", first_room)


def test_the_environments_are_made_alike_and_without_cuda() -> None:
    made = [step for step in START if step.startswith(MAKES_ENVIRONMENT)]
    # Nothing but the package itself: what answers first needs no extra.
    assert FIRST[:2] == [made[0], ".venv/bin/pip install ."]
    assert made[:2] == TESTS[:2]
    assert "https://download.pytorch.org/whl/cpu" in made[1]
    assert (made[2], TESTS[2]) == (".venv/bin/pip install -e '.[all]'", ".venv/bin/pip install -e '.[all,dev]'")
    assert TESTS[3].endswith("-m pytest -n 2 --dist loadfile")
