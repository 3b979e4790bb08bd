"""Where a stream of speech is cut, and what its blocks know of those that follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from omni_edge.errors import UsageError
from omni_edge.vocoder.pacing import PaceSettings

Order = Literal["window", "wavefront"]


@dataclass(frozen=True)
class TickSettings:
    """How codec tokens become sound bit by bit, in ticks. Lengths are in blocks.

    Attributes:
        look_ahead_blocks: provisional blocks of a window; more: closer to the whole utterance, later.
        growth: blocks that the first, second, ... tick finishes; the last number holds for all later ones. Small first
            ticks let sound begin early, large ones waste less. Empty: one tick, at the end of the reply, equal to
            decoding the whole utterance.
        order: "window": a tick computes its blocks beside a few provisional ones behind them, which the next tick
            computes again: sound begins early and is nearly that of the whole utterance. "wavefront": before each
            evaluation of the solver a block waits until the next one has come as far: everything is computed once and
            equals the whole utterance; a block is finished one block later for every evaluation.
        pace: chooses the size of each tick by the clock instead of `growth`. A window's samples then depend on timing,
            within the error of the stream; a wavefront's do not, apart from rounding. None: only the seed counts.

    Raises:
        UsageError: an unknown order, a number below 1, or fewer evaluations asked of a wavefront.
    """

    look_ahead_blocks: int = 1
    growth: tuple[int, ...] = (1, 2, 4)
    order: Order = "window"
    pace: PaceSettings | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise UsageError(f"There is no order {self.order!r}; the orders are {', '.join(get_args(Order))}.")
        if self.look_ahead_blocks < 1 or any(blocks < 1 for blocks in self.growth):
            raise UsageError(
                f"A stream with {self.look_ahead_blocks} blocks of look-ahead and ticks of {list(self.growth)} blocks "
                "cannot run: each of these numbers must be at least 1."
            )
        if self.order == "wavefront" and self.pace and self.pace.fewest_evaluations is not None:
            raise UsageError(
                "In a wavefront blocks are under way at every evaluation, so none can be left out. Use the window "
                "order, or a pace without fewest_evaluations."
            )

    @classmethod
    def of(cls, name: str | None = None) -> TickSettings:
        """Settings by name: "growing" (the default), "paced" by the clock, "exact" as the whole utterance.

        Raises:
            UsageError: another name.
        """
        named = {"growing": cls(), "paced": cls(pace=PaceSettings()), "exact": cls(order="wavefront")}
        if name is not None and name not in named:
            raise UsageError(f"There are no ticks {name!r}; choose from {', '.join(named)}.")
        return named[name or "growing"]

    def finished_blocks(self, tick: int) -> int:
        """Blocks that tick number `tick` finishes; 0: it waits for the end."""
        return self.growth[min(tick, len(self.growth) - 1)] if self.growth else 0
