"""The screen of a live conversation: what was said scrolls, and below it stand the state, the level and the keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from omni_cli.live_display import CameraState, State, Status

_REDRAW_SECONDS = 0.1
_LABEL = "{:>5}  "
_INDENT = len(_LABEL.format(""))
_METER_CELLS = 12
# The quietest room that the meter shows, in decibels below full scale.
_QUIET_DECIBELS = -60.0
_STYLES = {
    State.WAITING: "dim",
    State.LISTENING: "bold green",
    State.THINKING: "bold yellow",
    State.SPEAKING: "bold cyan",
}


class Screen:
    """A `LiveDisplay` in a terminal; draws within `with`.

    Args:
        keys: what the keys do.
        console: the terminal; None: the one of stdout.
        clock: seconds.
    """

    def __init__(self, keys: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._clock = keys, clock
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        # Guards everything below and the order of lines.
        self._lock = threading.RLock()
        self._status = Status()
        self._line = ""
        self._in_reply = False
        self._held: list[Text] | None = None
        self._drawn_at = 0.0
        self._live = Live(console=self._console, auto_refresh=False, transient=True, get_renderable=self._bottom)

    @property
    def drawable(self) -> bool:
        """Whether the terminal can move its cursor."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def __enter__(self) -> Screen:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._flush()
            self._live.stop()

    def note(self, text: str) -> None:
        with self._lock:
            self._print(Text(_printable(text), "yellow"))

    def refresh(self, status: Status) -> None:
        with self._lock:
            changed = status.state is not self._status.state
            self._status = replace(status)
            now = self._clock()
            if changed or now - self._drawn_at >= _REDRAW_SECONDS:
                self._drawn_at = now
                self._draw()

    def said(self, text: str) -> None:
        with self._lock:
            self._print(_labelled("you", _printable(text), "bold"))

    def write(self, text: str) -> None:
        with self._lock:
            self._line += _printable(text)
            # Complete lines scroll; a reply that is longer than the screen can still be read.
            width = max(1, self._console.width - _INDENT)
            *complete, last = Text(self._line).wrap(self._console, width) or [Text()]
            self._line = last.plain
            for line in complete:
                scrolled, self._in_reply = self._reply_line(line.plain), True
                self._print(scrolled)
            self._draw()

    def end_reply(self, summary: str) -> None:
        with self._lock:
            self._flush()
            self._print(_labelled("", _printable(summary), "dim"))

    def void(self) -> None:
        with self._lock:
            if self._in_reply:
                self._print(_labelled("", "(void: you went on)", "dim"))
            self._line, self._in_reply = "", False
            self._draw()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        with self._lock:
            self._live.stop()
            self._held = []
        try:
            yield
        finally:
            with self._lock:
                held, self._held = self._held or [], None
                self._live.start()
                for line in held:
                    self._print(line)
                self._draw()

    def _reply_line(self, text: str) -> Text:
        return _labelled("" if self._in_reply else "omni", text)

    def _flush(self) -> None:
        """Lets the last line of the reply scroll."""
        last = self._reply_line(self._line) if self._line else None
        self._line, self._in_reply = "", False
        if last is not None:
            self._print(last)

    def _print(self, line: Text) -> None:
        if self._held is None:
            self._console.print(line)
        else:
            self._held.append(line)

    def _draw(self) -> None:
        if self._held is None:
            self._live.refresh()

    def _bottom(self) -> Group:
        """The lines that are drawn again and again."""
        status = self._status
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(f"{'●' if status.state is not State.WAITING else '○'} {status.state:<9}", _STYLES[status.state])
        line.append("  mic ")
        if status.muted or status.gated:
            line.append(f"{'muted' if status.muted else 'off while speaking':<{_METER_CELLS}}", "dim")
        else:
            filled = round(_METER_CELLS * max(0.0, 1 - status.decibels / _QUIET_DECIBELS))
            line.append("█" * filled, "green")
            line.append("░" * (_METER_CELLS - filled), "dim")
        if status.camera is not None:
            line.append(f"  camera {status.camera}", "red" if status.camera is CameraState.GONE else "")
        if status.capacity:
            share = 100 * status.used / status.capacity
            line.append(f"  context {status.used}/{status.capacity} ({share:.0f} %)", "red" if share > 90 else "")
        keys = Text(self._keys, "dim", no_wrap=True, overflow="ellipsis")
        return Group(*([self._reply_line(self._line)] if self._line else []), line, keys)


def _labelled(label: str, text: str, style: str = "") -> Text:
    """A line behind its speaker, its further lines indented."""
    line = Text(_LABEL.format(label), "dim")
    line.append(text.replace("\n", "\n" + " " * _INDENT), style)
    return line


def _printable(text: str) -> str:
    """The text without what would move the cursor."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)
