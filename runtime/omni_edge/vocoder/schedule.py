"""The chunks of a stream of speech: how many blocks each finishes, and what a block sees of the blocks behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from omni_edge.errors import UsageError
from omni_edge.vocoder.pacing import PacingSettings

Order = Literal["window", "wavefront"]


@dataclass(frozen=True)
class ChunkSchedule:
    """How an utterance is divided into chunks. The rules and their latency: docs/streaming.md.

    Attributes:
        look_ahead_blocks: provisional blocks behind those that a chunk of the window order finishes. More of them come
            closer to the whole utterance and delay the first sound.
        chunk_blocks: blocks that the first, second, ... chunk finishes. The last number holds for all later chunks.
            Small first chunks make sound start early; large chunks cost less per second of sound. An empty tuple
            makes one chunk at the end of the reply, which is the whole utterance decoded at once.
        order: "window" computes a chunk together with its provisional look-ahead, which the next chunk computes again.
            "wavefront" lets a block wait before each evaluation until the next block has come as far. It computes
            every block once, equals the whole utterance, and finishes a block one block later per evaluation.
        pacing: chooses the size of each chunk by the clock; `chunk_blocks` is then unused. The samples of a window then
            depend on timing, within the error of the stream; those of a wavefront do not, apart from rounding.
            None: samples depend on the seed alone.

    Raises:
        UsageError: an unknown order, a number below 1, or `min_evaluations` together with a wavefront.
    """

    look_ahead_blocks: int = 1
    chunk_blocks: tuple[int, ...] = (1, 2, 4)
    order: Order = "window"
    pacing: PacingSettings | None = None

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise UsageError(f"There is no order {self.order!r}; the orders are {', '.join(get_args(Order))}.")
        if self.look_ahead_blocks < 1 or any(blocks < 1 for blocks in self.chunk_blocks):
            raise UsageError(
                f"Chunks of {list(self.chunk_blocks)} blocks with {self.look_ahead_blocks} blocks of look-ahead are "
                "impossible. Each of these numbers must be at least 1."
            )
        if self.order == "wavefront" and self.pacing and self.pacing.min_evaluations is not None:
            raise UsageError(
                "A wavefront has blocks at every evaluation, so evaluations cannot be halved within a reply. "
                "Use the window order, or pacing without min_evaluations."
            )

    @classmethod
    def named(cls, name: str | None = None) -> ChunkSchedule:
        """The schedule of a name.

        Args:
            name: "growing", the default; "paced", sized by the clock; "exact", equal to the whole utterance.

        Raises:
            UsageError: another name.
        """
        schedules = {"growing": cls(), "paced": cls(pacing=PacingSettings()), "exact": cls(order="wavefront")}
        if name is not None and name not in schedules:
            raise UsageError(f"There is no chunk schedule {name!r}; choose from {', '.join(schedules)}.")
        return schedules[name or "growing"]

    def finished_blocks(self, chunk: int) -> int:
        """Blocks that chunk number `chunk`, counted from 0, finishes. 0: it finishes all blocks at the end."""
        return self.chunk_blocks[min(chunk, len(self.chunk_blocks) - 1)] if self.chunk_blocks else 0
