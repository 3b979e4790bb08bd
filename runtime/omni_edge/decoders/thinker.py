"""The Thinker: text, sound and pictures in; hidden states and the logits of the next text token out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.decoders.tmrope import Ids

T = TypeVar("T", bound=np.generic)


# In `ThinkerBlock.next_ids`: the context cannot be cut here.
INSIDE = -1


@dataclass(frozen=True)
class ThinkerBlock:
    """Positions on their way into the Thinker.

    Attributes:
        tokens: int64 [n]; placeholders in the place of media.
        embeds: float32 [n, hidden].
        positions: int64 [3, n].
        next_ids: int64 [n]; the id of a text token that would follow each position, INSIDE a picture or a video.
        media: the embeds come from an encoder; the Talker gets zeros in their place.
    """

    tokens: NDArray[np.int64]
    embeds: NDArray[np.float32]
    positions: Ids
    next_ids: NDArray[np.int64]
    media: bool = False

    def __len__(self) -> int:
        return self.tokens.size

    def part(self, start: int, stop: int) -> ThinkerBlock:
        """The positions from `start` to `stop`."""
        return ThinkerBlock(
            self.tokens[start:stop],
            self.embeds[start:stop],
            self.positions[:, start:stop],
            self.next_ids[start:stop],
            self.media,
        )


@dataclass(frozen=True)
class ThinkerStates:
    """Thinker positions as the Talker takes them.

    Attributes:
        states: float32 [n, hidden]; embedding + hidden.
        positions: int64 [3, n].
    """

    states: NDArray[np.float32]
    positions: Ids

    def __len__(self) -> int:
        return len(self.states)

    def first(self, count: int) -> ThinkerStates:
        """The first `count` positions."""
        return ThinkerStates(self.states[:count], self.positions[:, :count])

    @staticmethod
    def joined(parts: list[ThinkerStates]) -> ThinkerStates:
        """All parts in order; at least one."""
        if len(parts) == 1:
            return parts[0]
        return ThinkerStates(
            np.concatenate([part.states for part in parts]),
            np.concatenate([part.positions for part in parts], axis=1),
        )


class Thinker:
    """The token embedding and the Thinker step; immutable.

    Args:
        decoder: the `thinker` graph.
        embedding: the `token_embedding` graph.
    """

    def __init__(self, decoder: Decoder, embedding: Graph) -> None:
        self.decoder = decoder
        self._embedding = embedding

    def cache(self, capacity: int) -> KVCache:
        """An empty context of `capacity` positions."""
        return self.decoder.cache(capacity)

    def embed(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeds of text tokens: int64 [n] -> float32 [n, hidden]."""
        embeds: NDArray[np.float32] = self._embedding.run({"ids": tokens[None]})[0][0]
        return embeds

    def step(self, blocks: list[ThinkerBlock], cache: KVCache) -> tuple[ThinkerStates, NDArray[np.float32]]:
        """Appends the blocks to the context in one go.

        Returns:
            the new positions as the Talker takes them, and the logits float32 [vocabulary] after the last one (valid
            until the next step).

        Raises:
            ContextFullError: they do not fit; nothing was changed.
        """
        embeds = _joined([block.embeds for block in blocks])
        positions = _joined([block.positions for block in blocks], axis=1)
        hidden, logits = self.decoder.step({"embeds": embeds[None]}, positions, cache)
        written = _joined([np.zeros_like(block.embeds) if block.media else block.embeds for block in blocks])
        return ThinkerStates(hidden + written, positions), logits


def _joined(parts: list[NDArray[T]], axis: int = 0) -> NDArray[T]:
    """The parts as one array. While decoding there is one, which is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)
