"""Mel blocks -> embeds for the Thinker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.front_end import audio_tokens
from omni_edge.backend.graph import Graph
from omni_edge.bundle.manifest import AudioSection
from omni_edge.errors import UsageError

# Blocks that go through the graph together. One keeps two cores busy, a few keep larger machines busy; a long
# recording takes the memory of a few blocks.
_BLOCKS_PER_RUN = 4


class AudioEncoder:
    """The audio encoder over whole blocks; immutable.

    Nothing crosses a block (reference: `Qwen2_5OmniAudioEncoder`): blocks encoded as they arrive give the embeds of the
    whole clip, at a cost that grows with its length.

    Args:
        graph: the bundle's `audio_encoder`.
        section: the manifest's audio section.
    """

    def __init__(self, graph: Graph, section: AudioSection) -> None:
        self._graph = graph
        self._section = section
        hidden = graph.outputs[graph.output_name("embeds")].shape[-1]
        self.hidden_size = int(hidden or 0)

    def encode(self, blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The embeds of all blocks, in order.

        Args:
            blocks: float32 [n_mels, frames] each, 1 <= frames <= block_frames. Only the last block of a clip is
                shorter than block_frames. Fewer than three frames give no token.

        Returns:
            float32 [tokens, hidden].

        Raises:
            UsageError: a block has another shape.
        """
        for block in blocks:
            self._check(block.shape)
        pieces = [piece for batch in self._batches(blocks) for piece in self._graph.run({"mel": batch}, ["embeds"])]
        return np.concatenate(
            [np.zeros((0, self.hidden_size), np.float32), *(p.reshape(-1, p.shape[-1]) for p in pieces)]
        )

    def _batches(self, blocks: Sequence[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        for frames, equal in groupby(blocks, key=lambda block: block.shape[1]):
            run = list(equal) if audio_tokens(frames) else []
            for start in range(0, len(run), _BLOCKS_PER_RUN):
                yield np.stack(run[start : start + _BLOCKS_PER_RUN])

    def _check(self, shape: tuple[int, ...]) -> None:
        n_mels, longest = self._section.n_mels, self._section.block_frames
        if len(shape) != 2 or shape[0] != n_mels or not 1 <= shape[1] <= longest:
            raise UsageError(
                f"A mel block has shape {list(shape)}; the audio encoder takes [{n_mels}, 1 to {longest} frames]. "
                "Cut the clip into blocks with an AudioFrontEnd."
            )
