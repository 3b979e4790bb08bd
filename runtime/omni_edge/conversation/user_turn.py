"""The user's turn: text, sound, pictures and videos, encoded and prefilled as soon as they are complete."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from omni_edge.audio.front_end import AudioBlock, audio_tokens
from omni_edge.conversation.context import Context
from omni_edge.conversation.live_sound import LiveSound
from omni_edge.conversation.media_encoder import MediaEncoder
from omni_edge.conversation.settings import CompleteSettings
from omni_edge.conversation.turns import Turns
from omni_edge.errors import MediaError, UsageError
from omni_edge.events import AudioClip, CameraFrame, ImageFrame, Media, PcmBlock, VideoClip
from omni_edge.model import Model

# Positions kept free for closing one turn and opening the next, roles included; generous.
_MARKS_PER_TURN = 24


class UserTurn:
    """Adds to the user's turn, and opens it where it is not open.

    Attributes:
        live: the live sound that is open, or None.

    Args:
        model: the loaded parts.
        settings: those of the conversation.
        context: the conversation.
        turns: its turns.
    """

    def __init__(self, model: Model, settings: CompleteSettings, context: Context, turns: Turns) -> None:
        self._model, self._settings, self._context, self._turns = model, settings, context, turns
        self._media = MediaEncoder(model, settings)
        self.live: LiveSound | None = None

    @property
    def live_positions(self) -> int:
        """Positions that 2 s of the live sound that is open take, and what they show."""
        audio = self._model.manifest.audio
        video = self.live.video if self.live is not None else None
        return audio_tokens(audio.block_frames) + (self._media.live_positions(video) if video is not None else 0)

    def push(self, item: str | Media) -> None:
        """Takes text, a whole sound, picture or video, or the next piece of a live sound; see `Session.push`."""
        if not isinstance(item, PcmBlock | CameraFrame):
            self.end_sound()
        match item:
            case str():
                self.reserve(len(self._model.tokenizer.encode(item)))
                with self.opened():
                    self._context.pending.write(item)
            case PcmBlock():
                self._push_piece(item)
            case AudioClip():
                self._push_clip(item)
            case ImageFrame():
                self._push_picture(item)
            case VideoClip():
                self._push_video(item)
            case CameraFrame():
                self._push_frame(item)
            case _:
                raise UsageError(f"A session takes text, sound, pictures and videos, not {type(item).__name__}.")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Opens the user's turn where it is not open; an error within leaves the conversation as it was."""
        with self._context.unchanged_on_error():
            stops = list(self._turns.reply_stops)
            pending = self._context.pending
            if not self._turns.open:
                if self._turns.reply_starts:
                    stops.append(self._context.offset)
                    pending.end_turn()
                elif not self._context.offset and self._settings.system:
                    pending.system(self._settings.system)
                pending.user()
            yield
        self._turns.reply_stops, self._turns.open = stops, True

    def reserve(self, count: int) -> None:
        """Checks that `count` more positions fit beside what waits and the marks around a turn."""
        opening = 0
        if not self._context.offset:
            opening = len(self._model.tokenizer.encode(self._settings.system))
        self._context.reserve(opening + count + _MARKS_PER_TURN)

    def end_sound(self, wait: bool = False) -> None:
        """Ends the live sound, if one is open; with `wait` its last block is prefilled with what follows.

        Raises:
            MediaError: the whole sound is too short for one audio token.
            ContextFullError: it does not fit.
        """
        live, self.live = self.live, None
        if live is not None and live.state is not None:
            self.live = live
            self._push_piece(PcmBlock(np.zeros(0, np.float32), live.state.rate, end=True), wait)

    def _push_clip(self, clip: AudioClip) -> None:
        self.reserve(self._media.sound_tokens(clip))
        embeds = self._media.sound(self._media.sound_blocks(clip))
        with self.opened():
            pending = self._context.pending
            pending.begin_sound()
            pending.sound(embeds)
            pending.end_sound()
            self._context.prefill()

    def _push_piece(self, piece: PcmBlock, wait: bool = False) -> None:
        """The next piece of a live sound; with `wait` its last block is prefilled later."""
        front_end, live = self._model.audio_front_end, self.live or LiveSound()
        state = live.state or front_end.state(piece.rate)
        if state.rate != piece.rate:
            raise UsageError(
                f"This sound came at {state.rate} Hz, and now at {piece.rate}. End it (end=True) before changing."
            )
        try:
            blocks = front_end.step(piece.samples, state, piece.end)
        except MediaError:
            if state.ended:
                self.live = None
            raise
        live.state = state
        self.live = None if piece.end else live
        for block in blocks:
            self._push_block(block, live, wait and block is blocks[-1])
        if piece.end and live.begun:
            if live.video is not None:
                self._context.pending.end_video()
            else:
                self._context.pending.end_sound()

    def _push_block(self, block: AudioBlock, live: LiveSound, wait: bool) -> None:
        """A block of live sound, behind what was seen meanwhile; with `wait` it is prefilled later."""
        video, media, pending = live.video, self._media, self._context.pending
        seen = math.prod(media.live_patches(video, block)) if video is not None else 0
        self.reserve(seen + block.tokens)
        shown = media.live_chunk(video, block) if video is not None else None
        embeds = media.sound([block])
        with self.opened():
            if video is not None and shown is not None:
                start = pending.begin_video() if video.start is None else video.start
                pending.live_video(start, shown, embeds, video.sound_tokens)
            else:
                if not live.begun:
                    pending.begin_sound()
                pending.sound(embeds)
            if not wait:
                self._context.prefill()
        live.begun = True
        if video is not None:
            video.start = start
            video.sound_tokens += len(embeds)

    def _push_frame(self, frame: CameraFrame) -> None:
        if self.live is not None and self.live.begun and self.live.video is None:
            # A live video starts with its sound.
            self.end_sound()
        live = self.live or LiveSound()
        video = live.video or self._media.live_video()
        self._media.add_frame(video, frame.pixels, live.seconds(self._model.manifest.audio.sample_rate))
        live.video, self.live = video, live

    def _push_picture(self, picture: ImageFrame) -> None:
        patches = self._media.picture_patches(picture)
        self.reserve(self._media.vision_tokens(patches))
        embeds = self._media.patches(patches)
        _, height, width = self._media.merged(patches)
        with self.opened():
            self._context.pending.picture(embeds, height, width)
            self._context.prefill()

    def _push_video(self, clip: VideoClip) -> None:
        media = self._media
        video = media.video_patches(clip)
        sound_blocks = media.video_sound_blocks(clip.sound)
        self.reserve(media.vision_tokens(video) + sum(block.tokens for block in sound_blocks))
        embeds = media.patches(video)
        sound_embeds = media.sound(sound_blocks) if sound_blocks else None
        with self.opened():
            self._context.pending.video(embeds, media.merged(video), video.seconds_per_grid, sound_embeds)
            self._context.prefill()
