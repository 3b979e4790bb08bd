"""The size of the next chunk of speech, from the measured speed of the chunks before it.

Playback is assumed to run in real time from the first sound on. A larger chunk costs less per second of sound and comes
later, so it is chosen when the sound in the playback buffer covers its computation. Speed is the time from one chunk to
the next over the length of its sound. That includes the Thinker, the Talker and the caller, who must not wait for
playback.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from omni_edge.errors import UsageError


@dataclass(frozen=True)
class PacingSettings:
    """Limits of the pacing.

    Attributes:
        largest_chunk: blocks of the largest chunk. Sizes are powers of two up to it. A block of the published models
            is 0.24 s of sound.
        reserve: share of the playback buffer that the next chunk must leave, in [0, 1).
        min_evaluations: the solver's evaluations are halved, for the rest of the reply and down to this number, when
            chunks of the largest size are slower than real time. None: never.

    Raises:
        UsageError: a value out of its range.
    """

    largest_chunk: int = 8
    reserve: float = 0.25
    min_evaluations: int | None = None

    def __post_init__(self) -> None:
        evaluations = 1 if self.min_evaluations is None else self.min_evaluations
        if self.largest_chunk < 1 or not 0 <= self.reserve < 1 or evaluations < 1:
            raise UsageError(
                f"Pacing with largest_chunk {self.largest_chunk}, reserve {self.reserve} and min_evaluations "
                f"{self.min_evaluations} is impossible. Blocks and evaluations must be at least 1, the reserve at "
                "least 0 and below 1."
            )

    @property
    def sizes(self) -> list[int]:
        """Possible chunk sizes in blocks, ascending."""
        return [1 << power for power in range(self.largest_chunk.bit_length())]


@dataclass
class Pacing:
    """The pacing of one reply.

    Attributes:
        settings: its limits.
        block_seconds: sound of one block, in seconds.
        clock: returns seconds; only differences count.
        chunk_blocks: size of the next chunk, in blocks.
        rtf: chunk size in blocks -> compute seconds per second of sound.
        emitted_at: clock at the last chunk; None before the first.
        buffer_end: clock at which playback will have used up all emitted sound.
    """

    settings: PacingSettings
    block_seconds: float
    clock: Callable[[], float] = time.perf_counter
    chunk_blocks: int = field(init=False)
    rtf: dict[int, float] = field(init=False)
    emitted_at: float | None = field(init=False)
    buffer_end: float = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Returns to the start of a reply."""
        self.chunk_blocks = 1
        self.rtf = {}
        self.emitted_at = None
        self.buffer_end = 0.0

    @property
    def too_slow(self) -> bool:
        """True when chunks of the largest size are slower than real time."""
        return self.rtf.get(self.settings.sizes[-1], 0.0) >= 1

    def evaluations_halved(self) -> None:
        """Discards the speed of the largest size, which was measured with more evaluations."""
        self.rtf.pop(self.settings.sizes[-1], None)

    def chunk_emitted(self, seconds: float) -> None:
        """Records a chunk with `seconds` of sound, and chooses the size of the next chunk."""
        now = self.clock()
        if self.emitted_at is not None and seconds > 0:
            self._record((now - self.emitted_at) / seconds)
        self.emitted_at = now
        self.buffer_end = max(self.buffer_end, now) + seconds
        self.chunk_blocks = self._choose(self.buffer_end - now) if self.rtf else 1

    def _record(self, rtf: float) -> None:
        """Updates the speed of the current size; a slower one counts fully, a faster one by half."""
        rtf = max(rtf, (rtf + self.rtf.get(self.chunk_blocks, rtf)) / 2)
        self.rtf[self.chunk_blocks] = rtf
        # The RTF never rises with the size: other sizes measured under another load are clipped to this.
        for size, measured in self.rtf.items():
            self.rtf[size] = min(measured, rtf) if size > self.chunk_blocks else max(measured, rtf)

    def _choose(self, buffered: float) -> int:
        """Blocks of the next chunk with `buffered` seconds of sound in the playback buffer."""
        # At most twice the last size: the cost of larger chunks is an extrapolation.
        sizes = [size for size in self.settings.sizes if size <= 2 * self.chunk_blocks]
        faster = [size for size in sizes if self._expected(size) < 1]
        if not faster:
            return sizes[-1]
        covered = (1 - self.settings.reserve) * buffered
        safe = [size for size in faster if self._expected(size) * size * self.block_seconds <= covered]
        return max(safe, default=faster[0])

    def _expected(self, size: int) -> float:
        """RTF of chunks of `size` blocks: the measured one, or that of the next smaller measured size."""
        return self.rtf[max((measured for measured in self.rtf if measured <= size), default=min(self.rtf))]
