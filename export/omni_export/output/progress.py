"""Progress of an export: bytes written, by graph and in all, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# A rate over less time is too noisy for an estimate.
_MIN_RATE_SECONDS = 1.0


@dataclass(frozen=True)
class ExportProgress:
    """The state of an export.

    Attributes:
        item: the graph that is being written, or the work that has to be done before one can be.
        item_done, item_total: bytes of its weights; 0 of 0 where nothing is being written.
        done, total: bytes of all weights.
        remaining: estimated seconds until all are written; None before there is an estimate.
    """

    item: str
    item_done: int
    item_total: int
    done: int
    total: int
    remaining: float | None


OnProgress = Callable[[ExportProgress], None]


class ProgressMeter:
    """Adds up the bytes that are written and reports them.

    A byte of INT4 takes several times as long as one of float32; the number of weights that are read and converted
    measures time at every precision. The remaining time is estimated from it.

    Args:
        on_progress: called at every step.
        total: bytes of all weights.
        weights: the number of weights still to be converted.
        done: bytes that earlier runs have written.
    """

    def __init__(self, on_progress: OnProgress, total: int, weights: int, done: int = 0) -> None:
        self._on_progress = on_progress
        self._total = total
        self._weights = weights
        self._done = done
        self._converted = 0
        self._seconds = 0.0
        self._item, self._item_done, self._item_total = "", 0, 0
        self._began = time.monotonic()

    def start(self, item: str, nbytes: int) -> None:
        """Begins an item with `nbytes` to write."""
        self._seconds += time.monotonic() - self._began if self._item_total else 0.0
        self._began = time.monotonic()
        self._item, self._item_done, self._item_total = item, 0, nbytes
        self._report()

    def wrote(self, nbytes: int, weights: int) -> None:
        """Counts `nbytes` written for `weights` weights."""
        self._item_done += nbytes
        self._done += nbytes
        self._converted += weights
        self._report()

    def _report(self) -> None:
        # Items that write nothing are left out of the rate.
        elapsed = self._seconds + (time.monotonic() - self._began if self._item_total else 0.0)
        remaining = None
        if self._converted == self._weights:
            remaining = 0.0
        elif self._converted and elapsed >= _MIN_RATE_SECONDS:
            remaining = elapsed / self._converted * (self._weights - self._converted)
        self._on_progress(
            ExportProgress(self._item, self._item_done, self._item_total, self._done, self._total, remaining)
        )
