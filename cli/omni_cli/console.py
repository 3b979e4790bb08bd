"""What the commands print besides the answer: sizes, tables, progress."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO

_REDRAW_SECONDS = 0.1
_SPARSE_SHARE = 0.25
_BAR_CELLS = 10


def human_bytes(nbytes: int) -> str:
    """`nbytes` with a decimal unit: 1.2 GB."""
    value, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def human_seconds(seconds: float) -> str:
    """`seconds` as minutes and seconds, rounded up: 1:05."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}:{rest:02}"


def overall(done: int, total: int, remaining: float | None, *, bar: bool = False) -> str:
    """How far all stages together are: bytes, and the seconds that remain where an estimate exists."""
    share = done / total if total else 0.0
    filled = int(_BAR_CELLS * share)
    cells = f"[{'#' * filled}{'.' * (_BAR_CELLS - filled)}] " if bar else "all "
    left = f", {human_seconds(remaining)} left" if remaining is not None else ""
    return f"{cells}{100 * share:3.0f} % of {human_bytes(total)}{left}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns in lines of text; the columns whose index is in `right` are aligned to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


class Progress:
    """How far each stage is, on stderr: one changing line in a terminal, a few lines elsewhere.

    `live` says which of them it is.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.live = self._stream.isatty()
        self._stage = ""
        self._shown_at = 0.0
        self._shown_share = 0.0

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Called as often as there is news: `done` of `total` bytes of `stage`; `note` ends the line."""
        share = min(done / total, 1.0) if total else 1.0
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._shown_share = stage, 0.0
        elif not self._due(share, now):
            return
        self._shown_at, self._shown_share = now, share
        line = f"{stage}  {100 * share:3.0f} %  of {human_bytes(total)}" if total else stage
        if note:
            line += f"   {note}"
        if self.live:
            # A line that wraps could not be redrawn.
            line = f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}"
        self._stream.write(line if self.live else f"{line}\n")
        self._stream.flush()

    def _due(self, share: float, now: float) -> bool:
        if share == 1:
            return self._shown_share < 1
        if self.live:
            return now - self._shown_at >= _REDRAW_SECONDS
        return share - self._shown_share >= _SPARSE_SHARE

    def close(self) -> None:
        """Ends the line that is being redrawn."""
        if self.live and self._stage:
            self._stream.write("\n")
            self._stream.flush()
        self._stage = ""
