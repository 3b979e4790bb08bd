"""The screen of a live conversation, drawn into a terminal of the test's own."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from omni_cli.live_display import CameraState, State, Status
from omni_cli.live_screen import Screen

# What moves the cursor or sets a colour.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What is written to a terminal; its screen is 60 columns wide."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, force_terminal=True, width=60, height=20, highlight=False)

    def text(self) -> str:
        """What came since the last call, without colours."""
        written = ESCAPES.sub("", self._file.getvalue()).replace("\r", "")
        self._file.truncate(0)
        self._file.seek(0)
        return written


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_state_level_context_and_keys_stand_at_the_bottom(terminal: Terminal) -> None:
    now = [0.0]
    with Screen("space interrupts", terminal.console, clock=lambda: now[0]) as screen:
        terminal.text()
        now[0] = 1.0
        screen.refresh(Status(State.LISTENING, decibels=-30.0, camera=CameraState.ON, used=410, capacity=8192))
        drawn = terminal.text()
        assert drawn.splitlines()[-2:] == [
            "● listening  mic ██████░░░░░░  camera on  context 410/8192 …",
            "space interrupts",
        ]
        # Drawn ten times a second at most; another state at once.
        screen.refresh(Status(State.LISTENING, decibels=-20.0))
        assert terminal.text() == ""
        screen.refresh(Status(State.SPEAKING, gated=True))
        assert "● speaking   mic off while speaking" in terminal.text()
        screen.refresh(Status(State.WAITING, muted=True))
        assert "○ waiting    mic muted" in terminal.text()


def test_a_reply_scrolls_line_by_line_behind_its_speaker(terminal: Terminal) -> None:
    with Screen("keys", terminal.console) as screen:
        screen.said("(spoken, 1.6 s)")
        assert "  you  (spoken, 1.6 s)\n" in terminal.text()
        words = "The kitchen light is on. "
        for _ in range(4):
            screen.write(words)
        assert "omni  The kitchen light is on. The kitchen light is on. The\n" in terminal.text()
        screen.write("\x1b[2JBye.")
        screen.end_reply("first text 0.40 s")
        lines = [line.rstrip() for line in terminal.text().splitlines()]
        assert "       kitchen light is on. The kitchen light is on." in lines
        # The bottom lines stand before them without the codes that move the cursor.
        assert any(line.endswith("       [2JBye.") for line in lines)
        assert any(line.endswith("       first text 0.40 s") for line in lines)
        screen.write("Void.")
        screen.void()
        screen.write("Anew.")
        terminal.text()
    assert "Void" not in terminal.text()


def test_nothing_is_drawn_while_the_user_types(terminal: Terminal) -> None:
    with Screen("keys", terminal.console) as screen:
        with screen.suspended():
            terminal.text()
            screen.note("The microphone is gone.")
            screen.refresh(Status(State.THINKING))
            screen.write("Hello.")
            assert terminal.text() == ""
        drawn = terminal.text()
        assert drawn.index("The microphone is gone.") < drawn.index("omni  Hello.") < drawn.index("● thinking")
