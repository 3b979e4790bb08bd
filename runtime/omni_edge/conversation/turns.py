"""Where the turns of a conversation lie in its context."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Turns:
    """The turns so far.

    Attributes:
        reply_starts, reply_stops: offsets at which replies begin, and at which those end that another turn follows.
        open: whether the user's turn holds anything that a reply would answer.
        evicted: replies that left the context.
    """

    reply_starts: list[int] = field(default_factory=list)
    reply_stops: list[int] = field(default_factory=list)
    open: bool = False
    evicted: int = 0

    @property
    def reply_number(self) -> int:
        """The number of the reply that began last; names its random streams."""
        return self.evicted + len(self.reply_starts)

    def replies(self, end: int) -> list[tuple[int, int]]:
        """Start and stop of each reply; `end` is that of the last one, where no turn follows it."""
        return list(zip(self.reply_starts, [*self.reply_stops, end], strict=False))
