"""Running a bundle is offline: it leaves no file in the user's folders and looks up no host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omni_edge.backend.graph import runtime_version
from support.offline import assert_offline, watch

QUESTION = Path(__file__).parents[3] / "examples" / "turn-on-the-kitchen-light.wav"
COMMAND = "from omni_cli.app import main; main()"
LIBRARY = """
from omni_edge import AudioChunk, OmniEdge
session = OmniEdge.load(threads=1).session()
session.push("what time is it")
assert any(isinstance(event, AudioChunk) for event in session.reply())
"""
# A host program that uses onnxruntime for itself as well.
HOST = (
    LIBRARY
    + """
import onnxruntime
from omni_edge import shipped_bundle
onnxruntime.InferenceSession(str(next(shipped_bundle().glob("*.onnx"))))
"""
)
# Sees what a process that the host program starts would see.
ENVIRONMENT = """
import os
import omni_edge
print(os.environ.get("ORT_DISABLE_TELEMETRY"))
"""


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


@pytest.mark.parametrize("program", ["command", "library", "host"])
def test_a_spoken_reply_is_offline(program: str, tmp_path: Path) -> None:
    command = {
        "command": python(COMMAND, "run", "--audio", QUESTION, "-o", tmp_path / "reply.wav"),
        "library": python(LIBRARY),
        "host": python(HOST),
    }[program]
    assert_offline(watch(command, tmp_path))


def test_the_watch_sees_a_file_and_a_look_up(tmp_path: Path) -> None:
    program = """
import pathlib, socket
pathlib.Path.home().joinpath("left").touch()
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
"""
    traces = watch(python(program), tmp_path)
    assert traces.files == ["HOME/left"]
    assert traces.calls is None or any("connect(" in call for call in traces.calls)


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_the_host_programs_environment_stays_as_it_is(value: str | None) -> None:
    inherited = {name: text for name, text in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment = inherited if value is None else {**inherited, "ORT_DISABLE_TELEMETRY": value}
    result = subprocess.run(python(ENVIRONMENT), env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(value)


def test_a_host_program_that_imports_onnxruntime_first_is_warned_once(tmp_path: Path) -> None:
    program = "import onnxruntime; import omni_edge; import omni_edge.backend.graph"
    errors = watch(python(program), tmp_path / "warned").errors
    if tuple(map(int, runtime_version().split(".")[:2])) < (1, 29):
        assert errors == ""
    else:
        assert errors.count("RuntimeWarning") == 1
        assert "set ORT_DISABLE_TELEMETRY=1 before Python starts" in errors
    quiet = watch(python(program), tmp_path / "quiet", ORT_DISABLE_TELEMETRY="1")
    assert (quiet.errors, quiet.files) == ("", [])
