"""Files of public tools through the installed commands, in every common format (see tests/data/README.md).

The small model answers noise, so what is compared is the length of the prompt, which the formats' own numbers foretell.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import pytest

from support.commands import GREEDY, run_edge

DATA = Path(__file__).parents[1] / "data"
COMMAND = Path(sys.executable).with_name("omni-edge")
PROMPT = "What is this?"
MARKS = 2  # a medium stands between its start and its end


def ask(bundle: Path, *arguments: object, stdin: bytes = b"") -> dict[str, Any]:
    """The `response.done` of the installed command."""
    words = ["run", PROMPT, "-m", bundle, *GREEDY, "--max-new-tokens", 4, "--max-codec-tokens", 30, *arguments]
    result = subprocess.run([str(COMMAND), *map(str, words)], capture_output=True, check=False, input=stdin)
    assert result.returncode == 0, result.stderr
    last: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return last


@pytest.fixture(scope="module")
def bare(bundle: Path) -> int:
    """Length of the prompt without media."""
    length: int = ask(bundle, "--json", "--no-speech")["prompt_tokens"]
    return length


def sound_tokens(seconds: float) -> int:
    """As the reference counts them: 100 mel frames a second, halved twice."""
    frames = int(seconds * 16_000) // 160
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def test_speech_in_speech_out(bundle: Path, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    # The system prompt that speech requires is another one.
    bare = ask(bundle, "--json")["prompt_tokens"]
    done = ask(bundle, "--audio", DATA / "question.wav", "--json", "-o", reply)
    assert done["prompt_tokens"] == bare + MARKS + sound_tokens(1.610750)
    with wave.open(str(reply)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(done["metrics"]["audio"])
        # 20 ms for each codec token.
        assert done["metrics"]["audio"] == pytest.approx(0.02 * len(done["codec_tokens"]), abs=0.001)


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3"])
def test_sound_formats(bundle: Path, bare: int, ending: str) -> None:
    done = ask(bundle, "--audio", DATA / f"question.{ending}", "--json", "--no-speech")
    assert done["prompt_tokens"] == bare + MARKS + sound_tokens(1.610794)


@pytest.mark.parametrize(("name", "rows", "columns"), [("cat.jpg", 11, 16), ("cat.webp", 11, 16), ("cat.png", 5, 8)])
def test_picture_formats(bundle: Path, bare: int, name: str, rows: int, columns: int) -> None:
    done = ask(bundle, "--image", DATA / name, "--json", "--no-speech")
    assert done["prompt_tokens"] == bare + MARKS + rows * columns


@pytest.mark.parametrize("ending", ["mp4", "mov", "webm"])
def test_video_formats(bundle: Path, bare: int, ending: str) -> None:
    silent = ask(bundle, "--video", DATA / f"clip.{ending}", "--no-audio-in-video", "--json", "--no-speech")
    # 3 s at 2 frames a second are 3 pairs; 160 x 120 becomes 4 x 6 squares of 28.
    assert silent["prompt_tokens"] == bare + MARKS + 3 * 4 * 6
    sound = ask(bundle, "--video", DATA / f"clip.{ending}", "--json", "--no-speech")
    assert sound["prompt_tokens"] == pytest.approx(silent["prompt_tokens"] + MARKS + sound_tokens(3.0), abs=1)


def test_sound_from_a_pipe(bundle: Path, bare: int) -> None:
    """`--audio -` and `<(...)`: stdin, and a pipe that has a name."""
    expected = bare + MARKS + sound_tokens(1.610794)
    sound = (DATA / "question.ogg").read_bytes()
    done = ask(bundle, "--audio", "-", "--json", "--no-speech", stdin=sound)
    assert done["prompt_tokens"] == expected
    words = ["run", PROMPT, "-m", bundle, *GREEDY, "--max-new-tokens", 4, "--json", "--no-speech"]
    line = f"{shlex.join(map(str, [COMMAND, *words]))} --audio <(cat {shlex.quote(str(DATA / 'question.ogg'))})"
    result = subprocess.run(["bash", "-c", line], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert json.loads(result.stdout.splitlines()[-1])["prompt_tokens"] == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-", "--audio", "-"], 2, "stdin holds one"),
        (["hello", "--audio", "-", "--image", "-"], 2, "stdin holds one"),
        (["hello", "--audio", "-"], 4, "0 bytes"),
        (["hello", "--audio", "10:30 memo.wav"], 4, "There is no file 10:30 memo.wav"),
        (["hello", "--image", "."], 4, "is a folder"),
        (["hello", "--video", "/dev/null"], 4, "0 bytes"),
    ],
)
def test_files_that_cannot_be_used(bundle: Path, arguments: list[str], code: int, message: str) -> None:
    result = run_edge("run", *arguments, "-m", bundle, input=b"")
    assert result.exit_code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
