"""The part of a conversation that is written but not prefilled yet, and the marks (ChatML) that give it its form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import Manifest
from omni_edge.decoders.thinker import Thinker, ThinkerBlock
from omni_edge.decoders.tmrope import Ids, Positions, interleave, time_ids, vision_grid
from omni_edge.decoders.tokenizer import TextTokenizer


class Prompt:
    """Collects text, marks and media as blocks for the Thinker, each with its TMRoPE positions.

    Text is tokenized up to the next mark as a whole, because a tokenizer may merge across the places where it was cut.

    Attributes:
        positions: the ids that come next, here and while decoding.

    Args:
        thinker: embeds the text.
        codec: tokenizes it.
        manifest: special ids and time scale.
    """

    def __init__(self, thinker: Thinker, codec: TextTokenizer, manifest: Manifest) -> None:
        self._thinker = thinker
        self._codec = codec
        self._text = manifest.text
        self._scale = manifest.positions
        self.reset()

    def reset(self) -> None:
        """Back to the start of a conversation."""
        self.positions = Positions()
        self._open = ""
        self._blocks: list[ThinkerBlock] = []

    @property
    def size(self) -> int:
        """Positions that are waiting."""
        return sum(map(len, self._blocks)) + len(self._codec.encode(self._open))

    def take(self) -> list[ThinkerBlock]:
        """Everything written so far, for prefilling."""
        self._close_text()
        blocks, self._blocks = self._blocks, []
        return blocks

    # -- text and turns ----------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Appends text."""
        self._open += text

    def system(self, text: str) -> None:
        """The opening turn."""
        self._begin("system")
        self.write(text)
        self.end_turn()

    def user(self) -> None:
        """Opens the user's turn."""
        self._begin("user")

    def assistant(self) -> None:
        """Opens the assistant's turn, which the Thinker continues."""
        self._begin("assistant")

    def end_turn(self) -> None:
        """Closes the open turn."""
        self.tokens([self._codec.turn_end])
        self.write("\n")

    def tokens(self, tokens: list[int]) -> None:
        """Appends tokens as they are: marks, or what the Thinker itself wrote."""
        self._close_text()
        if tokens:
            self._blocks.append(self._text_block(tokens, self.positions.text(len(tokens))))

    def _begin(self, role: str) -> None:
        self.tokens([self._codec.turn_start])
        self.write(f"{self._text.roles[role]}\n")

    def _close_text(self) -> None:
        tokens = self._codec.encode(self._open)
        self._open = ""
        if tokens:
            self.tokens(tokens)

    # -- media -------------------------------------------------------------------------------------------------

    def begin_sound(self) -> None:
        """The mark before a sound's blocks."""
        self.tokens([self._text.audio_start_token])

    def sound(self, embeds: NDArray[np.float32]) -> None:
        """Audio tokens: embeds float32 [n, hidden]."""
        self._close_text()
        self._media(self._text.audio_token, embeds, self.positions.text(embeds.shape[0]))

    def end_sound(self) -> None:
        """The mark after a sound's blocks."""
        self.tokens([self._text.audio_end_token])

    def picture(self, embeds: NDArray[np.float32], height: int, width: int) -> None:
        """A picture of `height` x `width` merged tokens."""
        self.tokens([self._text.vision_start_token])
        self._media(self._text.image_token, embeds, self.positions.vision(np.zeros(1, np.int64), height, width))
        self.tokens([self._text.vision_end_token])

    def video(
        self,
        embeds: NDArray[np.float32],
        grid: tuple[int, int, int],
        seconds_per_grid: float,
        sound: NDArray[np.float32] | None,
    ) -> None:
        """A video of `grid` (temporal patches, merged rows, merged columns), its sound's embeds interleaved by time."""
        times = time_ids(grid[0], seconds_per_grid, self._scale)
        text = self._text
        if sound is None or not len(sound):
            self.tokens([text.vision_start_token])
            self._media(text.video_token, embeds, self.positions.vision(times, *grid[1:]))
            self.tokens([text.vision_end_token])
            return
        mixed = interleave(vision_grid(times, *grid[1:]), sound.shape[0], self._scale)
        self._close_text()
        self._blocks.append(
            self._text_block([text.vision_start_token, text.audio_start_token], self.positions.shared(2))
        )
        ids = self.positions.interleaved(mixed)
        tokens = np.repeat([text.video_token, text.audio_token], [embeds.shape[0], sound.shape[0]])[mixed.order]
        self._blocks.append(ThinkerBlock(tokens, np.concatenate([embeds, sound])[mixed.order], ids, media=True))
        self._blocks.append(self._text_block([text.audio_end_token, text.vision_end_token], self.positions.shared(2)))

    def _media(self, token: int, embeds: NDArray[np.float32], ids: Ids) -> None:
        self._blocks.append(ThinkerBlock(np.full(embeds.shape[0], token, np.int64), embeds, ids, media=True))

    def _text_block(self, tokens: list[int], ids: Ids) -> ThinkerBlock:
        array = np.array(tokens, np.int64)
        return ThinkerBlock(array, self._thinker.embed(array), ids)
