"""A loudspeaker without a device: it plays at the pace of a clock that the caller moves."""

from __future__ import annotations

from threading import Lock

import numpy as np
from numpy.typing import NDArray


class VirtualSink:
    """Plays by `advance`; for servers, measurements and tests.

    Args:
        rate: samples per second.

    Attributes:
        underruns: gaps in the middle of a reply: samples came later than they had to be played.
        gap_samples: their length together.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.underruns = 0
        self.gap_samples = 0
        self._lock = Lock()
        self._waiting = np.zeros(0, np.float32)
        self._played = 0
        self._dry = 0
        self._stopped = True

    def begin(self) -> None:
        with self._lock:
            self._waiting = np.zeros(0, np.float32)
            self._played = self._dry = 0
            self._stopped = False

    def write(self, samples: NDArray[np.float32]) -> None:
        with self._lock:
            if self._stopped:
                return
            if self._dry and self._played:
                self.underruns += 1
                self.gap_samples += self._dry
            self._dry = 0
            self._waiting = np.concatenate([self._waiting, samples])

    def stop(self) -> None:
        with self._lock:
            self._waiting = np.zeros(0, np.float32)
            self._stopped = True

    @property
    def played(self) -> int:
        return self._played

    @property
    def waiting(self) -> int:
        """Samples that are not played yet."""
        return self._waiting.size

    def advance(self, count: int) -> NDArray[np.float32]:
        """What is heard during the next `count` samples, float32 [count]; silence where nothing waits."""
        with self._lock:
            heard = np.zeros(count, np.float32)
            taken = self._waiting[:count]
            heard[: taken.size] = taken
            self._waiting = self._waiting[count:]
            self._played += taken.size
            self._dry += count - taken.size
            return heard
