"""Oldest turns leave a conversation whose context fills; what a place in it becomes then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from omni_edge.conversation.snapshot import ContextSnapshot, SessionSnapshot


@dataclass(frozen=True)
class Eviction:
    """Turns that left the context.

    Attributes:
        turns: how many.
        start, stop: the positions that they took.
        ids: by how much the ids of what follows were lowered.
        begin: the conversation as it is without any turn, its system prompt apart.
    """

    turns: int
    start: int
    stop: int
    ids: int
    begin: ContextSnapshot

    @property
    def positions(self) -> int:
        """How many positions became free."""
        return self.stop - self.start

    def offset(self, offset: int) -> int:
        """Where a position behind them is now."""
        return offset - self.positions

    def moved(self, snapshot: SessionSnapshot) -> SessionSnapshot:
        """A place in the conversation, where it is now; a place between the turns that left is now before all turns."""
        if snapshot.context.prefilled + snapshot.context.pending.size <= self.stop:
            return replace(snapshot, context=self.begin, reply_starts=(), reply_stops=(), live=None, turn_open=False)
        return replace(
            snapshot,
            context=ContextSnapshot(self.offset(snapshot.context.prefilled), snapshot.context.pending.moved(self.ids)),
            reply_starts=tuple(self.offset(each) for each in snapshot.reply_starts[self.turns :]),
            reply_stops=tuple(self.offset(each) for each in snapshot.reply_stops[self.turns :]),
        )


def first_turn_kept(starts: Sequence[int], end: int, keep: int, last: int) -> int:
    """Which turn is the first that stays.

    Args:
        starts: where each turn begins.
        end: where the last one ends.
        keep: positions that the context may hold afterwards.
        last: positions that it may hold where only the last turn stays.

    Returns:
        an index into `starts`, 1 or more; `len(starts)`: none stays.
    """
    for turn, start in enumerate(starts[1:], 1):
        allowed = last if turn == len(starts) - 1 else keep
        if starts[0] + end - start <= allowed:
            return turn
    return len(starts)
