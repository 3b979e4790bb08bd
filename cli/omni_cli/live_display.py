"""What a live conversation shows, and its plain form: text on stdout, everything else as lines on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

import typer


class State(StrEnum):
    """What the conversation does."""

    WAITING = "waiting"
    LISTENING = "listening"
    THINKING = "thinking"
    SPEAKING = "speaking"


class CameraState(StrEnum):
    """What the camera does."""

    ON = "on"
    OFF = "off"
    GONE = "gone"  # switched on, but it does not open or gives no pictures


@dataclass
class Status:
    """What changes all the time.

    Attributes:
        state: what the conversation does.
        decibels: level of the microphone below full scale.
        gated: half duplex: the microphone is muted while a reply is played.
        muted: the user muted the microphone.
        camera: what the camera does; None: there is none.
        used, capacity: positions of the context.
    """

    state: State = State.WAITING
    decibels: float = -120.0
    gated: bool = False
    muted: bool = False
    camera: CameraState | None = None
    used: int = 0
    capacity: int = 0


class LiveDisplay(Protocol):
    """Shows a live conversation; `note` and `refresh` may be called from any thread."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def refresh(self, status: Status) -> None:
        """The status may have changed."""

    def said(self, text: str) -> None:
        """What the user said or typed."""

    def write(self, text: str) -> None:
        """The next piece of the reply."""

    def end_reply(self, summary: str) -> None:
        """The reply is complete or was interrupted; `summary` is a line of figures."""

    def void(self) -> None:
        """The user continues the turn: what the reply said so far is void."""

    def suspended(self) -> AbstractContextManager[None]:
        """Within it, nothing is drawn, because the user types a line."""


class PlainDisplay:
    """Where the output is no terminal."""

    def __init__(self) -> None:
        self._shown = Status()
        self._in_line = False

    def note(self, text: str) -> None:
        self._end_line()
        typer.echo(text, err=True)

    def refresh(self, status: Status) -> None:
        before, self._shown = self._shown, replace(status)
        if status.state is not before.state and status.state in (State.LISTENING, State.THINKING):
            self.note(f"[{status.state}]")
        if status.muted is not before.muted:
            self.note("[microphone muted; m again: on]" if status.muted else "[microphone on]")
        # A camera that is gone was named already.
        if status.camera not in (before.camera, None, CameraState.GONE):
            self.note("[camera on]" if status.camera is CameraState.ON else "[camera off; v again: on]")

    def said(self, text: str) -> None:
        """A terminal shows what is typed, and sound has no text."""

    def write(self, text: str) -> None:
        self._in_line = True
        typer.echo(text, nl=False)

    def end_reply(self, summary: str) -> None:
        self.note(f"[{summary}; context {self._shown.used} of {self._shown.capacity}]")

    def void(self) -> None:
        self._shown.state = State.LISTENING
        self.note("[listening on: what was said since is void]")

    @contextmanager
    def suspended(self) -> Iterator[None]:
        yield

    def _end_line(self) -> None:
        if self._in_line:
            typer.echo()
            self._in_line = False
