"""What the loudspeaker has of a reply: handed over, and played by its own clock."""

from __future__ import annotations

from threading import RLock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SpeechSink(Protocol):
    """A loudspeaker, or what stands for one. Its methods return at once and never call back."""

    def begin(self) -> None:
        """A reply starts; `played` goes back to 0."""

    def write(self, samples: NDArray[np.float32]) -> None:
        """Takes the next samples of the reply, float32 [n]; they are played right behind those before."""

    def stop(self) -> None:
        """Falls silent, and drops what is written until the next `begin`."""

    @property
    def played(self) -> int:
        """Samples of this reply that have been heard, by the device's clock."""


class InstantSink:
    """Stands for a loudspeaker where there is none: whatever is written counts as heard."""

    def __init__(self) -> None:
        self._played = 0

    def begin(self) -> None:
        self._played = 0

    def write(self, samples: NDArray[np.float32]) -> None:
        self._played += samples.size

    def stop(self) -> None:
        """Nothing waits."""

    @property
    def played(self) -> int:
        return self._played


class Playback:
    """One reply on its way to the loudspeaker; safe from any thread.

    Args:
        sink: the loudspeaker.
        lock: shared by all that decides about interruption.

    Attributes:
        queued: samples handed over.
        generated: whether the reply is complete.
        dropped: whether it was interrupted; nothing is handed over any more.
    """

    def __init__(self, sink: SpeechSink, lock: RLock) -> None:
        self._sink, self._lock = sink, lock
        self.queued = 0
        self.generated = False
        self.dropped = False

    def hand_over(self, samples: NDArray[np.float32]) -> bool:
        """Gives samples to the loudspeaker; False: the reply was interrupted before."""
        with self._lock:
            if self.dropped:
                return False
            if not self.queued:
                self._sink.begin()
            self._sink.write(samples)
            self.queued += samples.size
            return True

    def drop(self) -> int:
        """Silences the loudspeaker; returns the samples that were heard."""
        with self._lock:
            played = self.played
            self.dropped = True
            if self.queued:
                self._sink.stop()
            return played

    @property
    def played(self) -> int:
        """Samples that were heard."""
        return min(self.queued, self._sink.played) if self.queued else 0

    @property
    def active(self) -> bool:
        """Whether the reply is being computed or played."""
        return not self.dropped and not (self.generated and self.played >= self.queued)

    @property
    def playing(self) -> bool:
        """Whether it can be heard; pauses between chunks that come late count as well."""
        return self.active and self.queued > 0
