"""Speech on a machine that is slower than real time: it is held back, so that silence falls between two phrases.

A phrase ends with a pause, and a long one where it is quietest. It is let out when it is complete, or when the measured
speed says that the rest of it comes in time. A machine that is faster than real time holds nothing back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A pause: so many frames of 10 ms in a row that are quieter than this share of the loudest one, or than the floor.
_FRAMES_PER_SECOND = 100
_PAUSE_FRAMES = 15
_QUIET_SHARE, _QUIET_FLOOR = 0.03, 1e-3
# A phrase without a pause ends after so long, where so many frames of its second half are quietest. The first one is
# shorter, because nothing is heard before it.
_FIRST_PHRASE_SECONDS, _PHRASE_SECONDS = 2.5, 5.0
_DIP_FRAMES = 5
# Computing may be so much slower than it was. Schedules at most double their chunks.
_SPEED_MARGIN = 1.1
_CHUNK_GROWTH = 2
# The first chunk is computed together with one block of look-ahead, but with less of other work.
_FIRST_CHUNKS = 1.6


@dataclass
class SpeechSpeed:
    """The speed of one reply.

    Attributes:
        rtf: compute seconds per second of its speech; None: unknown.
    """

    rtf: float | None = None
    _first: float | None = None
    _seconds: float = 0.0

    def add(self, seconds: float, computed: float) -> None:
        """Takes a chunk.

        Args:
            seconds: its length.
            computed: compute seconds from the begin of the reply to this chunk.
        """
        if self._first is None:
            self._first = computed
            self.rtf = max(self.rtf or 0.0, computed / (_FIRST_CHUNKS * seconds))
        else:
            self._seconds += seconds
            self.rtf = (computed - self._first) / self._seconds


class Phrases:
    """The speech of one reply that the loudspeaker does not have yet.

    Args:
        rate: samples per second.

    Attributes:
        at_pause: whether what was let out ends with a pause.
    """

    def __init__(self, rate: int) -> None:
        self._rate, self._frame = rate, rate // _FRAMES_PER_SECOND
        self.at_pause = False
        self._held: list[NDArray[np.float32]] = []
        # Samples so far, those let out, and the ends of the pauses between both.
        self._received = self._let_out = 0
        self._ends: list[int] = []
        # Where the phrase begins that is let out next or at present, and whether a part of it was let out.
        self._begin = 0
        self._flows = False
        # What is not a whole frame yet; the level of each frame; the loudest one; quiet frames in a row.
        self._rest = np.zeros(0, np.float32)
        self._levels: list[float] = []
        self._loudest, self._quiet_frames = 0.0, 0
        self._chunk_seconds = 0.0

    @property
    def held(self) -> int:
        """Samples that are held back."""
        return self._received - self._let_out

    def add(self, samples: NDArray[np.float32]) -> None:
        """Takes the next chunk, float32 [n]."""
        frames = np.concatenate([self._rest, samples])
        begin = self._received - self._rest.size
        count = frames.size // self._frame
        for number, frame in enumerate(frames[: count * self._frame].reshape(count, self._frame), 1):
            level = float(np.sqrt(np.mean(frame**2)))
            quiet = level < self._quiet_level
            self._levels.append(level)
            self._loudest = max(self._loudest, level)
            self._quiet_frames = self._quiet_frames + 1 if quiet else 0
            # Silence before the first word is no pause.
            if self._quiet_frames == _PAUSE_FRAMES and self._loudest >= _QUIET_FLOOR:
                self._ends.append(begin + number * self._frame)
        self._rest = frames[count * self._frame :]
        self._held.append(samples)
        self._received += samples.size
        self._chunk_seconds = samples.size / self._rate

    def let_out(self, ahead: float, rtf: float | None) -> NDArray[np.float32]:
        """What may be played now, float32 [n].

        Args:
            ahead: seconds that the loudspeaker still has.
            rtf: compute seconds per second of speech; None: nothing is held back.
        """
        stop = self._let_out
        while stop < self._received:
            if self._ends:
                end = self._ends.pop(0)
                self._next_phrase(end, True)
            elif self._received - self._begin >= self._longest * self._rate:
                end, quiet = self._quietest(stop)
                self._next_phrase(end, quiet)
            elif self._flows or self._lasts(stop, ahead + (stop - self._let_out) / self._rate, rtf):
                self._flows, self.at_pause = True, False
                end = self._received
            else:
                break
            stop = max(stop, end)
        return self._take(stop)

    @property
    def _quiet_level(self) -> float:
        return max(_QUIET_SHARE * self._loudest, _QUIET_FLOOR)

    @property
    def _longest(self) -> float:
        """Seconds after which the present phrase ends without a pause."""
        return _PHRASE_SECONDS if self._begin else _FIRST_PHRASE_SECONDS

    def _next_phrase(self, begin: int, at_pause: bool) -> None:
        self._begin, self._flows, self.at_pause = max(begin, self._begin), False, at_pause

    def _quietest(self, start: int) -> tuple[int, bool]:
        """Where a long phrase ends, in its second half and behind `start`; whether it is quiet there."""
        half = self._begin + round(self._longest / 2 * self._rate)
        first = -(-max(start, half) // self._frame)
        levels = np.array(self._levels[first:])
        if levels.size < _DIP_FRAMES:
            return self._received, False
        dips = np.convolve(levels, np.ones(_DIP_FRAMES) / _DIP_FRAMES, "valid")
        dip = int(dips.argmin())
        return (first + dip + _DIP_FRAMES // 2 + 1) * self._frame, bool(dips[dip] < self._quiet_level)

    def rest(self) -> NDArray[np.float32]:
        """All that is held back, float32 [n]."""
        return self._take(self._received)

    def _lasts(self, start: int, ahead: float, rtf: float | None) -> bool:
        """Whether the phrase can be played from `start` on without a gap, however long it is."""
        if rtf is None or rtf * _SPEED_MARGIN < 1:
            return True
        held = (self._received - start) / self._rate
        chunk = _CHUNK_GROWTH * self._chunk_seconds
        chunks = math.ceil(max(0.0, self._longest - held) / chunk)
        # Computing is the slower one, so the last chunk is the one that comes too late, if any does.
        return chunks * chunk * rtf * _SPEED_MARGIN <= ahead + held + (chunks - 1) * chunk or not chunks

    def _take(self, stop: int) -> NDArray[np.float32]:
        if stop == self._let_out:
            return np.zeros(0, np.float32)
        held = np.concatenate(self._held)
        count = stop - self._let_out
        self._held, self._let_out = [held[count:]] if count < held.size else [], stop
        return held[:count]
