"""The Thinker: a context of text, sound and pictures in; hidden states and the next text token's logits out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omni_edge.backend.graph import Graph
from omni_edge.decoders.decoder import Decoder, KVCache
from omni_edge.decoders.tmrope import Ids


@dataclass(frozen=True)
class ThinkerBlock:
    """Positions on their way into the Thinker.

    Attributes:
        tokens: int64 [n]; placeholders where media stand.
        embeds: float32 [n, hidden].
        positions: int64 [3, n].
        media: the embeds come from an encoder: the Talker sees zeros in their place.
    """

    tokens: NDArray[np.int64]
    embeds: NDArray[np.float32]
    positions: Ids
    media: bool = False

    def __len__(self) -> int:
        return self.tokens.size


@dataclass(frozen=True)
class TalkerBlock:
    """What the Talker is told of Thinker positions: embedding + hidden, float32 [n, hidden], and their ids [3, n]."""

    states: NDArray[np.float32]
    positions: Ids


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
        return KVCache.allocate(self.decoder.section, capacity)

    def embed(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeds of text tokens: int64 [n] -> float32 [n, hidden]."""
        embeds: NDArray[np.float32] = self._embedding.run({"ids": tokens[None]})[0][0]
        return embeds

    def step(self, blocks: list[ThinkerBlock], cache: KVCache) -> tuple[TalkerBlock, NDArray[np.float32]]:
        """Appends the blocks to the context in one go.

        Returns:
            what the Talker is told of these positions, and the logits float32 [vocabulary] after the last one (valid
            until the next step).

        Raises:
            ContextFullError: they do not fit; nothing was changed.
        """
        embeds = np.concatenate([block.embeds for block in blocks])
        positions = np.concatenate([block.positions for block in blocks], axis=1)
        hidden, logits = self.decoder.step({"embeds": embeds[None]}, positions, cache)
        told = np.concatenate([np.zeros_like(block.embeds) if block.media else block.embeds for block in blocks])
        return TalkerBlock(hidden + told, positions), logits
