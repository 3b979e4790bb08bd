"""What the loudspeaker has of a reply: handed over, and played by its own clock."""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omni_edge.events import AudioChunk
from omni_edge.live.events import Underrun
from omni_edge.live.phrases import Phrases


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
        clock: seconds; None: whatever is handed over is played at once.

    Attributes:
        queued: samples that the loudspeaker was given.
        generated: whether the reply is complete.
        dropped: whether it was interrupted; nothing is handed over any more.
    """

    def __init__(self, sink: SpeechSink, lock: RLock, clock: Callable[[], float] | None = None) -> None:
        self._sink, self._lock, self._clock = sink, lock, clock
        self._phrases: Phrases | None = None
        self._rate = 0
        # When the loudspeaker will have nothing left.
        self._dry_at = 0.0
        self.queued = 0
        self.generated = False
        self.dropped = False

    def hand_over(self, chunk: AudioChunk, rtf: float | None = None) -> list[Underrun] | None:
        """Gives the next chunk to the loudspeaker, now or when the pause before it is long enough.

        Args:
            chunk: follows the one before.
            rtf: measured compute seconds per second of speech; None: nothing is held back.

        Returns:
            gaps that end now; None: the reply was interrupted before.
        """
        with self._lock:
            if self.dropped:
                return None
            self._rate = chunk.rate
            if self._clock is None:
                self._write(chunk.samples)
                return []
            phrases = self._phrases = self._phrases or Phrases(chunk.rate)
            at_pause = phrases.at_pause
            phrases.add(chunk.samples)
            waiting = (self.queued - self.played) / chunk.rate
            return self._play(phrases.let_out(waiting, rtf), at_pause)

    def complete(self) -> list[Underrun]:
        """The reply is complete: all of it is played. Returns gaps that end now."""
        with self._lock:
            self.generated = True
            phrases = self._phrases
            return self._play(phrases.rest(), phrases.at_pause) if phrases is not None and not self.dropped else []

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
        """Whether it can be heard; pauses between phrases and chunks that come late count as well."""
        return self.active and self.queued > 0

    def _play(self, samples: NDArray[np.float32], at_pause: bool) -> list[Underrun]:
        """Plays samples; `at_pause` says whether what was played before ends with a pause."""
        if not samples.size or self._clock is None:
            return []
        now, waiting = self._clock(), self.queued - self.played
        gap = now - self._dry_at if self.queued and not waiting else 0.0
        self._write(samples)
        self._dry_at = now + (waiting + samples.size) / self._rate
        return [Underrun(gap, at_pause)] if gap > 0 else []

    def _write(self, samples: NDArray[np.float32]) -> None:
        if not self.queued:
            self._sink.begin()
        self._sink.write(samples)
        self.queued += samples.size
