"""How large the next tick of a spoken reply may be, from how fast the ticks so far have been.

The listener is taken to play in real time from the first sound on. Larger ticks cost less per second of speech but come
later: one is worth taking when the sound that waits to be played covers the time until it is there. Where small ticks
are slower than real time, only larger ones can become fast enough: silence comes either way.

All of it is arithmetic on the times at which sound left, so everything that happens in between counts: the Thinker, the
Talker, and whoever takes the chunks, who must not wait until they have been played.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from omni_edge.errors import UsageError


@dataclass(frozen=True)
class PaceSettings:
    """What a pace may choose.

    Attributes:
        largest: blocks of the largest tick (a block of the published models is 0.24 s); sizes are 1, 2, 4 and so on.
        reserve: share of the sound that waits to be played that no tick may count on.
        fewest_evaluations: where ticks of the largest size are slower than real time, the solver's evaluations are
            halved for the rest of the reply, down to this many; None: never.

    Raises:
        UsageError: a value outside of what is possible.
    """

    largest: int = 8
    reserve: float = 0.25
    fewest_evaluations: int | None = None

    def __post_init__(self) -> None:
        least = 1 if self.fewest_evaluations is None else self.fewest_evaluations
        if self.largest < 1 or not 0 <= self.reserve < 1 or least < 1:
            raise UsageError(
                f"A pace with ticks of up to {self.largest} blocks, a reserve of {self.reserve} and "
                f"{least} evaluations at least cannot be kept: ticks and evaluations must be 1 or "
                "more, the reserve from 0 up to 1."
            )

    @property
    def sizes(self) -> list[int]:
        """Blocks that a tick may have, ascending."""
        return [1 << power for power in range(self.largest.bit_length())]


class Pace:
    """Chooses the ticks of one reply.

    Args:
        settings: what it may choose.
        block_seconds: sound of one block.
        clock: seconds; only differences count.
    """

    def __init__(
        self, settings: PaceSettings, block_seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._settings = settings
        self._block_seconds = block_seconds
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Back to the start of a reply."""
        # Blocks of the next tick.
        self.blocks = 1
        # Tick size -> RTF.
        self._rtf: dict[int, float] = {}
        # When the last sound left, and when all that has left will have been played.
        self._left: float | None = None
        self._dry = 0.0

    @property
    def too_slow(self) -> bool:
        """Ticks of the largest size have been slower than real time."""
        return self._rtf.get(self._settings.sizes[-1], 0.0) >= 1

    def eased(self) -> None:
        """Ticks cost less from now on: what is known of the largest ones no longer holds."""
        self._rtf.pop(self._settings.sizes[-1], None)

    def gave(self, seconds: float) -> None:
        """A tick's `seconds` of sound have left; chooses the next tick."""
        now = self._clock()
        if self._left is not None and seconds > 0:
            self._learn((now - self._left) / seconds)
        self._left = now
        self._dry = max(self._dry, now) + seconds
        self.blocks = self._choose(self._dry - now) if self._rtf else 1

    def _learn(self, rtf: float) -> None:
        # Bad news is believed at once, good news by halves.
        rtf = max(rtf, (rtf + self._rtf.get(self.blocks, rtf)) / 2)
        self._rtf[self.blocks] = rtf
        # Whatever made these ticks faster or slower: larger ones are never dearer, smaller ones never cheaper.
        for size, known in self._rtf.items():
            self._rtf[size] = min(known, rtf) if size > self.blocks else max(known, rtf)

    def _choose(self, buffered: float) -> int:
        """The next tick's blocks with `buffered` seconds of sound waiting to be played."""
        # Twice the last size at most: the cost of larger ones is less well known.
        sizes = [size for size in self._settings.sizes if size <= 2 * self.blocks]
        lasting = [size for size in sizes if self._expected(size) < 1]
        if not lasting:
            return sizes[-1]
        covered = (1 - self._settings.reserve) * buffered
        safe = [size for size in lasting if self._expected(size) * size * self._block_seconds <= covered]
        return max(safe, default=lasting[0])

    def _expected(self, size: int) -> float:
        """RTF of ticks of `size` blocks; of a size not tried, that of the next smaller one, which is no less."""
        return self._rtf[max((tried for tried in self._rtf if tried <= size), default=min(self._rtf))]
