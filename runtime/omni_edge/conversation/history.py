"""What a context needs to prefill its positions again at another place: their ids, and the embeds of media."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from omni_edge.decoders.thinker import ThinkerBlock


class History:
    """The ids of all prefilled positions and, where `keeps_media`, the embeds of sound and pictures.

    Args:
        capacity: positions at most.

    Attributes:
        keeps_media: whether the embeds are kept; 4 bytes for each value of the Thinker's hidden size and position.
        kept_from: the positions from here on can be prefilled again.
    """

    def __init__(self, capacity: int) -> None:
        self.keeps_media = False
        self.kept_from = 0
        self._ids = np.zeros((3, capacity), np.int32)
        self._media: list[tuple[int, NDArray[np.float32]]] = []

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._ids.nbytes + sum(embeds.nbytes for _, embeds in self._media)

    def add(self, offset: int, blocks: list[ThinkerBlock]) -> None:
        """Blocks that were prefilled from `offset` on."""
        for block in blocks:
            stop = offset + len(block)
            self._ids[:, offset:stop] = block.positions
            if block.media and self.keeps_media:
                self._media.append((offset, block.embeds))
            elif block.media:
                self.kept_from = stop
            offset = stop

    def trim(self, to: int) -> None:
        """Forgets the positions from `to` on."""
        self.kept_from = min(self.kept_from, to)
        self._media = [(start, embeds[: to - start]) for start, embeds in self._media if start < to]

    def keep(self) -> None:
        """All positions that are left can be prefilled again."""
        self.kept_from = 0

    def blocks(self, start: int, tokens: NDArray[np.int64], next_ids: NDArray[np.int64], by: int) -> list[ThinkerBlock]:
        """The positions from `start` on, their ids lower by `by`. Blocks of text come without embeds.

        Args:
            start: `kept_from` or later.
            tokens, next_ids: int64 [n]; those of the positions.
            by: as said.
        """
        ids = self._ids[:, start : start + tokens.size].astype(np.int64) - by

        def block(first: int, last: int, embeds: NDArray[np.float32], media: bool) -> ThinkerBlock:
            return ThinkerBlock(tokens[first:last], embeds, ids[:, first:last], next_ids[first:last], media)

        def pieces() -> Iterator[ThinkerBlock]:
            done = 0
            for offset, embeds in self._media:
                first = offset - start
                if first < 0:
                    continue
                if first > done:
                    yield block(done, first, np.zeros((0, 0), np.float32), media=False)
                done = first + len(embeds)
                yield block(first, done, embeds, media=True)
            if done < tokens.size:
                yield block(done, tokens.size, np.zeros((0, 0), np.float32), media=False)

        return list(pieces())
