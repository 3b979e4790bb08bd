"""How far an export is: bytes written, by graph and in all, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# Before that, the rate says nothing.
_SETTLING_SECONDS = 1.0


@dataclass(frozen=True)
class ExportProgress:
    """How far an export is.

    Attributes:
        stage: the graph that is being written, or what is being done before one can be.
        stage_done, stage_total: bytes of its weights; 0 of 0 where nothing is being written.
        done, total: bytes of all weights.
        remaining: estimated seconds until all are written; None before there is an estimate.
    """

    stage: str
    stage_done: int
    stage_total: int
    done: int
    total: int
    remaining: float | None


Tell = Callable[[ExportProgress], None]


class Meter:
    """Adds up what is written and tells of it.

    A byte of INT4 takes several times as long as one of float32; what time goes by, whatever the precision, is the
    number of weights that are read and converted. The remaining time is estimated from these.

    Args:
        tell: is told of every step.
        total: bytes of all weights.
        weights: the number of weights still to be converted.
        done: bytes that were there before.
    """

    def __init__(self, tell: Tell, total: int, weights: int, done: int = 0) -> None:
        self._tell = tell
        self._total = total
        self._weights = weights
        self._done = done
        self._converted = 0
        self._seconds = 0.0
        self._stage, self._stage_done, self._stage_total = "", 0, 0
        self._began = time.monotonic()

    def start(self, stage: str, nbytes: int) -> None:
        """A stage with `nbytes` to write begins."""
        self._seconds += time.monotonic() - self._began if self._stage_total else 0.0
        self._began = time.monotonic()
        self._stage, self._stage_done, self._stage_total = stage, 0, nbytes
        self._show()

    def wrote(self, nbytes: int, weights: int) -> None:
        """`nbytes` have been written, for `weights` weights."""
        self._stage_done += nbytes
        self._done += nbytes
        self._converted += weights
        self._show()

    def _show(self) -> None:
        # Stages that write nothing are left out of the rate.
        elapsed = self._seconds + (time.monotonic() - self._began if self._stage_total else 0.0)
        remaining = None
        if self._converted == self._weights:
            remaining = 0.0
        elif self._converted and elapsed >= _SETTLING_SECONDS:
            remaining = elapsed / self._converted * (self._weights - self._converted)
        self._tell(ExportProgress(self._stage, self._stage_done, self._stage_total, self._done, self._total, remaining))
