"""A conversation through a real sound server: PulseAudio under PortAudio, `omni-edge chat` in a terminal of its own."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from omni_edge.media.wav import read_wave
from support.pulseaudio import LOUDSPEAKER, ROOM, PulseAudio, available

EXAMPLES = Path(__file__).parents[2] / "examples"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
RATE = 24_000

# What plays in real time needs the machine for itself: `.ci/run` runs it alone.
pytestmark = pytest.mark.skipif(
    not (available() and os.environ.get("REAL_SOUND")), reason="needs PulseAudio and REAL_SOUND=1 (as in .ci/run)"
)


@pytest.fixture
def pulseaudio(tmp_path: Path) -> Iterator[PulseAudio]:
    folder = tmp_path / "pulse"
    folder.mkdir(mode=0o700)
    with PulseAudio(folder) as server:
        yield server


class Terminal:
    """`omni-edge chat` in a terminal."""

    def __init__(self, environment: dict[str, str], *options: object) -> None:
        import pty

        self._keyboard, terminal = pty.openpty()
        program = [sys.executable, "-c", "from omni_cli.app import main; main()", "chat", *map(str, options)]
        self.process = subprocess.Popen(
            program,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "100"},
            start_new_session=True,
        )
        os.close(terminal)
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keyboard)

    def press(self, key: str) -> None:
        os.write(self._keyboard, key.encode())

    def wait_for(self, *texts: str, seconds: float = 120) -> None:
        """Reads on until all texts were shown, in any order, behind what was waited for before."""
        end = time.monotonic() + seconds
        while not all(text in self.shown for text in texts):
            assert time.monotonic() < end, self.shown
            assert self._read() or self.process.poll() is None, self.shown
        self.shown = self.shown[max(self.shown.index(text) + len(text) for text in texts) :]

    def exit_code(self) -> int:
        while self.process.poll() is None:
            self._read()
        return self.process.returncode

    def _read(self) -> bool:
        if not select.select([self._keyboard], [], [], 0.1)[0]:
            return False
        try:
            self.shown += ESCAPES.sub("", os.read(self._keyboard, 65_536).decode("utf-8", "replace"))
        except OSError:
            return False
        return True


def likeness(piece: NDArray[np.float32], recording: NDArray[np.float32]) -> float:
    """The largest correlation of a piece with any part of the recording."""
    windows = sliding_window_view(recording, piece.size)
    norms = np.sqrt(np.maximum(np.convolve(recording**2, np.ones(piece.size), "valid"), 1e-9))
    return float(np.max(windows @ piece / norms) / np.linalg.norm(piece))


def test_a_spoken_question_is_answered_through_the_sound_server(pulseaudio: PulseAudio, tmp_path: Path) -> None:
    question, rate = read_wave(EXAMPLES / "turn-on-the-kitchen-light.wav", 10)
    files = {name: tmp_path / name for name in ("talk.txt", "talk.omni", "replies")}
    options = ("--transcript", files["talk.txt"], "--save", files["talk.omni"], "-o", files["replies"])
    with Terminal(pulseaudio.environment, "--echo", "off", "--temp", "0", "--seed", "1", *options) as terminal:
        terminal.wait_for("Listening on 'default', speaking on 'default'; speak to interrupt.")
        recording = pulseaudio.record(RATE)
        pulseaudio.play(question, rate)
        terminal.wait_for("● listening")
        terminal.wait_for("(spoken, 1.")
        terminal.wait_for("omni  The kitchen light is on.")
        terminal.wait_for("first text ")
        terminal.wait_for("underruns")
        terminal.wait_for("○ waiting")
        heard = recording.stop()
        terminal.press("s")
        terminal.wait_for(f"Saved as {files['talk.omni']}"[:40])
        terminal.press("q")
        assert terminal.exit_code() == 0
    user, assistant = files["talk.txt"].read_text().splitlines()
    assert re.search(r" user: \(spoken, 1\.\d s\)$", user)
    assert assistant.endswith(" assistant: The kitchen light is on.")
    reply, rate = read_wave(files["replies"] / "reply-001.wav", 60)
    assert rate == RATE
    assert 0.8 < reply.size / RATE < 4
    # A busy machine may leave gaps between pieces; each piece is heard as it was computed.
    loud = np.flatnonzero(np.abs(reply) > 0.02)
    middle = reply[loud[0] : loud[-1]]
    for part in np.array_split(middle, 4):
        assert likeness(part[: RATE // 10], heard) > 0.95
    assert np.abs(heard).max() == pytest.approx(np.abs(reply).max(), abs=0.1)


def test_devices_that_vanish_are_named_and_the_conversation_goes_on(pulseaudio: PulseAudio) -> None:
    question, rate = read_wave(EXAMPLES / "turn-on-the-kitchen-light.wav", 10)
    with Terminal(pulseaudio.environment, "--echo", "off", "--temp", "0", "--seed", "1") as terminal:
        terminal.wait_for("Listening on 'default', speaking on 'default'; speak to interrupt.")
        # The server gives programs another device while there is one.
        pulseaudio.unplug(LOUDSPEAKER)
        pulseaudio.unplug(ROOM)
        terminal.wait_for(
            "The microphone 'default' is gone. The conversation waits until it is back.",
            "The loudspeaker 'default' is gone. Replies are text until it is back.",
        )
        pulseaudio.plug(LOUDSPEAKER)
        pulseaudio.plug(ROOM)
        terminal.wait_for("The microphone 'default' is back.", "The loudspeaker 'default' is back.")
        recording = pulseaudio.record(RATE)
        pulseaudio.play(question, rate)
        terminal.wait_for("omni  The kitchen light is on.")
        terminal.wait_for("underruns")
        terminal.wait_for("○ waiting")
        assert np.abs(recording.stop()).max() > 0.1
        terminal.press("q")
        assert terminal.exit_code() == 0


def test_a_sound_server_that_is_gone_is_named_and_the_exit_code_is_5(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PULSE_SERVER": f"unix:{tmp_path / 'none'}"}
    with Terminal(environment, "--device-in", "default", "--no-speech") as terminal:
        assert terminal.exit_code() == 5
        shown = terminal.shown
    assert re.search(
        r"error: (There is no microphone|The microphone 'default' cannot be opened|The system's sound)", shown
    )
