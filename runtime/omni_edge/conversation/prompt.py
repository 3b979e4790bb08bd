"""The part of a conversation that is written but not prefilled yet, and the marks (ChatML) that give it its form."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import Manifest
from omni_edge.decoders.thinker import INSIDE, ThinkerBlock
from omni_edge.decoders.tmrope import Ids, Positions, interleave, time_ids, vision_grid
from omni_edge.decoders.tokenizer import TextTokenizer

Embed = Callable[[NDArray[np.int64]], NDArray[np.float32]]

_NO_IDS = np.zeros((3, 0), np.int64)


@dataclass(frozen=True)
class VideoTokens:
    """Temporal patches of a live video.

    Attributes:
        embeds: float32 [t * height * width, hidden].
        times: int64 [t]; time ids since the video's beginning.
        height, width: merged rows and columns.
    """

    embeds: NDArray[np.float32]
    times: Ids
    height: int
    width: int


class Prompt:
    """Collects text, marks and media as blocks for the Thinker, each with its TMRoPE positions.

    Text is tokenized up to the next mark as a whole, because a tokenizer may merge across the places where it was cut.

    Attributes:
        positions: the ids that come next.

    Args:
        embed: gives the embeds float32 [n, hidden] of text tokens int64 [n].
        tokenizer: tokenizes it.
        manifest: special ids and time scale.
    """

    def __init__(self, embed: Embed, tokenizer: TextTokenizer, manifest: Manifest) -> None:
        self._embed = embed
        self._tokenizer = tokenizer
        self._marks = manifest.text
        self._scale = manifest.positions
        self.reset()

    def reset(self, positions: Positions | None = None) -> None:
        """Drops what waits; `positions` are the ids that come next, None those of a fresh conversation."""
        self.positions = positions if positions is not None else Positions()
        self._text = ""
        self._text_tokens: list[int] = []
        self._blocks: list[ThinkerBlock] = []

    @property
    def size(self) -> int:
        """Positions that wait."""
        return sum(map(len, self._blocks)) + len(self._text_tokens)

    def take(self, limit: int | None = None) -> list[ThinkerBlock]:
        """Hands over everything that waits, or its first `limit` positions without the text behind them."""
        if limit is None:
            self._close_text()
            blocks, self._blocks = self._blocks, []
            return blocks
        taken: list[ThinkerBlock] = []
        while limit > 0 and self._blocks:
            block = self._blocks.pop(0)
            if len(block) > limit:
                self._blocks.insert(0, block.part(limit, len(block)))
                block = block.part(0, limit)
            taken.append(block)
            limit -= len(block)
        return taken

    @property
    def holds_blocks(self) -> bool:
        """Whether anything but text waits."""
        return bool(self._blocks)

    @property
    def holds_media(self) -> bool:
        """Whether sound or pictures wait."""
        return any(block.media for block in self._blocks)

    def refill(self, blocks: list[ThinkerBlock], positions: Positions) -> None:
        """Waits with blocks that were prefilled before; `positions` are the ids behind them."""
        self.reset(positions)
        self._blocks = blocks

    def moved(self, by: int) -> Prompt:
        """The same with ids that are lower by `by`."""
        other = self.copy()
        other.positions = Positions(self.positions.next - by, self.positions.highest - by)
        other._blocks = [
            replace(
                block,
                positions=block.positions - by,
                next_ids=np.where(block.next_ids == INSIDE, INSIDE, block.next_ids - by),
            )
            for block in self._blocks
        ]
        return other

    def copy(self) -> Prompt:
        """What waits now, independent of what is added later."""
        other = copy(self)
        other.positions, other._blocks = replace(self.positions), list(self._blocks)
        return other

    @property
    def text(self) -> str:
        """Text behind everything else that waits; it has no ids yet."""
        return self._text

    def waiting(self) -> tuple[NDArray[np.int64], Ids]:
        """Tokens int64 [n] and ids int64 [3, n] that wait before `text`."""
        tokens = [block.tokens for block in self._blocks]
        ids = [block.positions for block in self._blocks]
        return np.concatenate([_NO_IDS[0], *tokens]), np.concatenate([_NO_IDS, *ids], axis=1)

    def restore(self, tokens: NDArray[np.int64], ids: Ids, text: str, positions: Positions) -> None:
        """Waits with these text tokens and marks (`waiting`), `text` and `positions` again.

        Media do not wait from one call of a session to the next, so their embeds are never asked for.
        """
        self.reset(positions)
        if tokens.size:
            self._append(tokens, ids)
        self.write(text)

    # -- text and turns ----------------------------------------------------------------------------------------

    def write(self, text: str) -> None:
        """Appends text."""
        self._text += text
        self._text_tokens = self._tokenizer.encode(self._text)

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
        self.mark(self._tokenizer.turn_end)
        self.write("\n")

    def mark(self, token: int) -> None:
        """Appends a special token."""
        self._close_text()
        self._append([token], self.positions.text(1))

    def decoded(self, token: int) -> None:
        """Appends a token that the Thinker wrote; its id follows the highest one, as in the reference's decoding."""
        self._close_text()
        self._append([token], self.positions.continued(1))

    def _begin(self, role: str) -> None:
        self.mark(self._tokenizer.turn_start)
        self.write(f"{self._marks.roles[role]}\n")

    def _close_text(self) -> None:
        tokens, self._text, self._text_tokens = self._text_tokens, "", []
        if tokens:
            self._append(tokens, self.positions.text(len(tokens)))

    # -- media -------------------------------------------------------------------------------------------------

    def begin_sound(self) -> None:
        """The mark before a sound's blocks."""
        self.mark(self._marks.audio_start_token)

    def sound(self, embeds: NDArray[np.float32]) -> None:
        """Audio tokens: embeds float32 [n, hidden]."""
        self._close_text()
        count = embeds.shape[0]
        self._append(np.full(count, self._marks.audio_token), self.positions.text(count), embeds=embeds)

    def end_sound(self) -> None:
        """The mark after a sound's blocks."""
        self.mark(self._marks.audio_end_token)

    def picture(self, embeds: NDArray[np.float32], height: int, width: int) -> None:
        """A picture of `height` x `width` merged tokens."""
        self.mark(self._marks.vision_start_token)
        self._picture(self._marks.image_token, embeds, self.positions.vision(np.zeros(1, np.int64), height, width))
        self.mark(self._marks.vision_end_token)

    def video(
        self,
        embeds: NDArray[np.float32],
        grid: tuple[int, int, int],
        seconds_per_grid: float,
        sound: NDArray[np.float32] | None,
    ) -> None:
        """A video of `grid` (temporal patches, merged rows, merged columns), its sound's embeds interleaved by time."""
        times = time_ids(grid[0], seconds_per_grid, self._scale)
        marks = self._marks
        if sound is None or not len(sound):
            self.mark(marks.vision_start_token)
            self._picture(marks.video_token, embeds, self.positions.vision(times, *grid[1:]))
            self.mark(marks.vision_end_token)
            return
        mixed = interleave(vision_grid(times, *grid[1:]), sound.shape[0], self._scale)
        self.begin_video()
        ids = self.positions.interleaved(mixed)
        tokens = np.repeat([marks.video_token, marks.audio_token], [embeds.shape[0], sound.shape[0]])[mixed.order]
        self._append(tokens, ids, INSIDE, np.concatenate([embeds, sound])[mixed.order])
        self.end_video()

    def begin_video(self) -> int:
        """The marks before a video with sound; returns the id that its times count from."""
        self._close_text()
        # Two marks share one id, so the context can be cut only in front of the first and behind the last of them.
        self._append([self._marks.vision_start_token, self._marks.audio_start_token], self.positions.shared(2), INSIDE)
        return self.positions.next

    def live_video(self, start: int, video: VideoTokens, sound: NDArray[np.float32], sound_before: int) -> None:
        """The next chunk of a live video: what is seen, then what is heard.

        Args:
            start: what `begin_video` returned.
            video: the chunk's temporal patches.
            sound: float32 [n, hidden]; the chunk's audio tokens.
            sound_before: number of the audio tokens in earlier chunks.
        """
        heard = start + sound_before + np.arange(len(sound))
        ids = self.positions.live_video(start + vision_grid(video.times, video.height, video.width), heard)
        tokens = np.repeat([self._marks.video_token, self._marks.audio_token], [len(video.embeds), len(sound)])
        self._append(tokens, ids, INSIDE, np.concatenate([video.embeds, sound]))

    def end_video(self) -> None:
        """The marks behind a video with sound."""
        closing = self.positions.shared(2)
        self._append([self._marks.audio_end_token, self._marks.vision_end_token], closing, self.positions.next)

    def _picture(self, token: int, embeds: NDArray[np.float32], ids: Ids) -> None:
        self._append(np.full(embeds.shape[0], token, np.int64), ids, self.positions.next, embeds)

    def _append(
        self,
        tokens: NDArray[np.int64] | list[int],
        ids: Ids,
        last_id: int | None = None,
        embeds: NDArray[np.float32] | None = None,
    ) -> None:
        """Adds a block.

        Args:
            tokens: int64 [n].
            ids: int64 [3, n].
            last_id: where the block cannot be cut: the id that follows it, or INSIDE. None: it can be cut anywhere.
            embeds: float32 [n, hidden] of media; None: those of the tokens.
        """
        tokens = np.asarray(tokens, np.int64)
        next_ids = ids[0] + 1
        if last_id is not None:
            next_ids = np.full(tokens.size, INSIDE)
            next_ids[-1:] = last_id
        media = embeds is not None
        vectors = embeds if embeds is not None else self._embed(tokens)
        self._blocks.append(ThinkerBlock(tokens, vectors, ids, next_ids, media))
