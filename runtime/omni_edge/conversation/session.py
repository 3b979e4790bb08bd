"""A conversation: takes what the user says and shows, and answers.

Whatever is pushed is encoded and prefilled as soon as it is complete; what an earlier turn prefilled is never prefilled
again. Offline is streaming with fresh state.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from omni_edge.audio.front_end import AudioBlock, audio_tokens
from omni_edge.conversation import saved
from omni_edge.conversation.context import Context
from omni_edge.conversation.eviction import Eviction, first_turn_kept
from omni_edge.conversation.live_sound import LiveSound
from omni_edge.conversation.media_encoder import MediaEncoder
from omni_edge.conversation.reply import Reply
from omni_edge.conversation.settings import ReplySettings, SessionSettings, check_voice
from omni_edge.conversation.snapshot import SessionSnapshot
from omni_edge.conversation.speech import Speech
from omni_edge.conversation.stop_strings import StopStrings
from omni_edge.decoders.sampling import GivenTokens, Sampler, TokenSource
from omni_edge.errors import ContextFullError, MediaError, UsageError
from omni_edge.events import AudioClip, CameraFrame, Event, ImageFrame, Media, PcmBlock, VideoClip
from omni_edge.model import Model

# Independent random streams of one seed.
_THINKER_STREAM, _TALKER_STREAM = range(2)
# Positions kept free for closing one turn and opening the next, roles included; generous.
_MARKS_PER_TURN = 24


class Session:
    """A conversation on a model; made by `OmniEdge.session`. One thread at a time, except for `cancel`.

    An error leaves the conversation as it was before the call; of a live sound, the blocks before it stay.
    """

    def __init__(self, model: Model, settings: SessionSettings) -> None:
        manifest = model.manifest
        self._model = model
        self._settings = chosen = settings.complete(manifest)
        self._voice = chosen.voice
        self._media = MediaEncoder(model, chosen)
        self._context = Context(model, chosen)
        self._cancelled = False
        self.reset()

    @classmethod
    def resume(cls, model: Model, path: Path | str) -> Session:
        """The conversation in a file that `save` wrote; see `OmniEdge.resume`."""
        file = saved.SavedFile(Path(path), model.bundle.manifest_sha256())
        header = file.header
        if len(header.reply_starts) - len(header.reply_stops) != (bool(header.reply_starts) and not header.turn_open):
            raise file.unusable("its turns do not follow each other")
        if header.replies_evicted < 0:
            raise file.unusable("it counts fewer than no replies")
        session = cls(model, header.settings)
        session._context.load(file)
        session._reply_starts, session._reply_stops = list(header.reply_starts), list(header.reply_stops)
        session._turn_open, session._replies_evicted = header.turn_open, header.replies_evicted
        return session

    # -- what the caller sees ----------------------------------------------------------------------------------

    @property
    def camera_fps(self) -> int:
        """Frames of a live video that the model sees in a second."""
        return self._settings.camera_fps

    @property
    def voice(self) -> str:
        """The speaker of the next reply; one of `OmniEdge.voices`."""
        return self._voice

    @voice.setter
    def voice(self, name: str) -> None:
        self._voice = check_voice(name, self._model.manifest)

    @property
    def speech(self) -> bool:
        """Whether replies are spoken."""
        return self._context.talker is not None

    @property
    def turn_open(self) -> bool:
        """Whether the user's turn holds anything that `reply` would answer."""
        return self._turn_open

    @property
    def offset(self) -> int:
        """Positions of the context in use, those that wait to be prefilled included."""
        return self._context.offset

    @property
    def capacity(self) -> int:
        """Positions that the conversation may use."""
        return self._context.capacity

    @property
    def nbytes(self) -> int:
        """Bytes reserved for this conversation; resident is the part in use."""
        return self._context.nbytes

    def reset(self) -> None:
        """Starts the conversation anew, with the same settings; the random streams start again too."""
        self._context.reset()
        # Offsets at which replies begin, and at which those end that another turn follows.
        self._reply_starts: list[int] = []
        self._reply_stops: list[int] = []
        self._reply: Reply | None = None
        self._live: LiveSound | None = None
        self._turn_open = False
        # Replies that left the context, and the end of what `refill` prefills.
        self._replies_evicted = self._refill_to = 0
        self._opened = not self._settings.system

    def end_sound(self) -> None:
        """Ends the live sound, if one is open. What remains of it is encoded now and prefilled with what follows.

        Raises:
            MediaError: the whole sound is too short for one audio token.
            ContextFullError: it does not fit.
        """
        self._end_sound(wait=True)

    def cancel(self) -> None:
        """Stops the reply in progress at its next step; safe from any thread.

        The conversation keeps the text written so far; the rest of the speech is dropped.
        """
        self._cancelled = True

    def push(self, item: str | Media) -> None:
        """Adds to the user's turn; sound and pictures are encoded and prefilled before it returns.

        Args:
            item: text, a whole sound, picture or video, or the next piece of a live sound (the last one with
                `end=True`; anything else that is pushed, and `reply`, end it too). Camera frames between the pieces
                make it a live video; frames without a sound are dropped.

        Raises:
            MediaError: it cannot be used.
            ContextFullError: it does not fit.
        """
        self._reply = None
        if not isinstance(item, PcmBlock | CameraFrame):
            self._end_sound()
        match item:
            case str():
                self._reserve(len(self._model.tokenizer.encode(item)))
                with self._user_turn():
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

    def reply(
        self,
        *,
        max_new_tokens: int | None = None,
        max_codec_tokens: int | None = None,
        settings: ReplySettings | None = None,
    ) -> Iterator[Event]:
        """Ends the user's turn and answers.

        Args:
            max_new_tokens: text tokens at most; None: the bundle's default.
            max_codec_tokens: codec tokens at most (50 for each second of speech); None: the bundle's default.
            settings: what is different in this reply; None: nothing.

        Returns:
            an iterator over `TextDelta`, `AudioChunk` and finally `TurnDone`. Abandoning it ends the reply where it
            stands.

        Raises:
            UsageError: nothing was pushed.
            ContextFullError: the turn's closing marks do not fit.
        """
        began = time.perf_counter()
        self._cancelled = False
        self._reply = None
        self.end_sound()
        if not self._turn_open:
            raise UsageError("There is nothing to answer: push text, sound or a picture first.")
        with self._context.unchanged_on_error():
            self._context.pending.end_turn()
            self._context.pending.assistant()
            self._context.prefill()
        prefilled = time.perf_counter() - began
        self._turn_open = False
        self._reply_starts.append(self._context.prefilled)
        chosen = settings or ReplySettings()
        reply = self._reply = self._begin_reply(began, prefilled, chosen, max_new_tokens, max_codec_tokens)
        # An iterator that is still held when the conversation continues must not write into it any more.
        return reply.events(lambda: self._cancelled or self._reply is not reply)

    def push_reply(self, text: str) -> None:
        """Adds a reply that was given elsewhere, as in a conversation that another program kept; nothing is spoken.

        Args:
            text: all of it.

        Raises:
            ContextFullError: it does not fit.
        """
        self._reply = None
        self._end_sound()
        self._reserve(len(self._model.tokenizer.encode(text)))
        stops = list(self._reply_stops)
        with self._context.unchanged_on_error():
            pending = self._context.pending
            if self._turn_open:
                pending.end_turn()
            elif self._reply_starts:
                stops.append(self._context.offset)
                pending.end_turn()
            elif not self._context.offset and self._settings.system:
                pending.system(self._settings.system)
            pending.assistant()
            self._context.prefill()
            start = self._context.prefilled
            pending.write(text)
            self._context.prefill()
        self._reply_starts, self._reply_stops, self._turn_open = [*self._reply_starts, start], stops, False

    def trim(self, offset: int) -> None:
        """Cuts a reply short and forgets everything behind it; the next turn follows as if the reply had ended there.

        Args:
            offset: positions that stay: within a reply or at its ends. `TurnDone.prompt_tokens + n` keeps the first n
                tokens of that reply.

        Raises:
            UsageError: the offset is not within a reply.
        """
        spans = list(zip(self._reply_starts, [*self._reply_stops, self.offset], strict=False))
        reply = next((number for number, (start, stop) in enumerate(spans, 1) if start <= offset <= stop), None)
        if reply is None:
            raise UsageError(
                f"A conversation can be cut within its replies, not at {offset}. They lie at "
                f"{', '.join(f'{start} to {stop}' for start, stop in spans) or '(none yet)'}."
            )
        self._reply = None
        if offset > self._context.prefilled:
            self._context.prefill()
        self._context.trim(offset)
        self._live, self._turn_open, self._refill_to = None, False, 0
        del self._reply_starts[reply:], self._reply_stops[reply - 1 :]

    def snapshot(self) -> SessionSnapshot:
        """The present place, in the middle of a live sound as well; `restore` goes back to it.

        It copies what waits and what the live sound holds (2 s at most), not the caches.
        """
        starts, stops = tuple(self._reply_starts), tuple(self._reply_stops)
        live = self._live.copy() if self._live is not None else None
        return SessionSnapshot(self._context.snapshot(), starts, stops, live, self._turn_open)

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Goes back to a place of this conversation: what was pushed and replied since then is forgotten.

        The conversation then continues, token for token, as one in which it never happened.

        Args:
            snapshot: taken since the conversation began, was reset or was last cut in front of it.

        Raises:
            UsageError: the conversation was cut in front of it.
        """
        if self._context.prefilled < snapshot.context.prefilled:
            raise UsageError("This place was cut from the conversation. Restore one that the conversation still has.")
        self._reply = None
        self._context.restore(snapshot.context)
        self._reply_starts, self._reply_stops = list(snapshot.reply_starts), list(snapshot.reply_stops)
        self._live = snapshot.live.copy() if snapshot.live is not None else None
        self._turn_open = snapshot.turn_open

    # -- room for more -----------------------------------------------------------------------------------------

    def keep_media(self) -> None:
        """From now on keeps the embeds of sound and pictures, so that turns which hold some can stay in `evict`."""
        self._context.history.keeps_media = True

    @property
    def refilling(self) -> bool:
        """Whether `refill` has something to compute."""
        if not self._opened and not self._context.offset:
            return True
        return self._refill_to > self._context.prefilled and self._context.pending.holds_blocks

    @property
    def live_positions(self) -> int:
        """Positions that 2 s of the live sound that is open take, and what they show."""
        audio = self._model.manifest.audio
        video = self._live.video if self._live is not None else None
        return audio_tokens(audio.block_frames) + (self._media.live_positions(video) if video is not None else 0)

    def evict(self, keep: int, last: int) -> Eviction | None:
        """The oldest turns leave, whole; the system prompt and a user's turn that is open stay.

        The conversation continues as one that never had them. The turns that stay wait to be prefilled again: at once
        with the next push or reply, or before that in parts, by `refill`.

        Args:
            keep: positions that may be in use afterwards.
            last: positions that may be in use where the last turn alone stays.

        Returns:
            what left; None: there is no turn that may leave.
        """
        context = self._context
        context.prefill()
        end, starts = context.prefilled, self._turn_starts()
        if not starts:
            return None
        kept_from = context.history.kept_from
        turn = first_turn_kept(starts, end, keep, last)
        while turn < len(starts) and starts[turn] < kept_from:
            turn += 1
        if self._turn_open:
            turn = min(turn, len(starts) - 1)
            if turn == 0 or starts[turn] < kept_from:
                return None
        start, stop = starts[0], starts[turn] if turn < len(starts) else end
        begin = context.place(start)
        ids = context.cut_out(start, stop)
        eviction = Eviction(turn, start, stop, ids, begin)
        self._reply_starts = [eviction.offset(each) for each in self._reply_starts[turn:]]
        self._reply_stops = [eviction.offset(each) for each in self._reply_stops[turn:]]
        self._replies_evicted += turn
        self._refill_to = self._context.offset
        if self._live is not None and self._live.video is not None and self._live.video.start is not None:
            self._live.video.start -= ids
        return eviction

    def refill(self, limit: int) -> None:
        """Prefills the next positions, `limit` at most, of what is known before the user's turn.

        That is the system prompt of a new conversation, and the turns that stayed in `evict`.
        """
        if not self._opened and not self._context.offset:
            self._open()
        self._context.prefill(limit=min(limit, self._refill_to - self._context.prefilled))

    def _open(self) -> None:
        """The system prompt waits to be prefilled; one that does not fit is refused with the user's turn."""
        self._opened = True
        with suppress(ContextFullError):
            self._reserve(0)
            pending = self._context.pending
            pending.system(self._settings.system)
            # As blocks, because text waits for what is written behind it.
            pending.refill(pending.take(), pending.positions)
            self._refill_to = self._context.offset

    def _turn_starts(self) -> list[int]:
        """Where each turn begins; nothing waits."""
        tokens = self._context.tokens
        marks = np.flatnonzero(tokens == self._model.tokenizer.turn_start).tolist()
        if self._settings.system:
            del marks[:1]
        behind = [0, *self._reply_stops]
        return [next(mark for mark in marks if mark >= stop) for stop in behind] if marks else []

    def save(self, path: Path | str) -> None:
        """Puts the conversation away in a file, whole or not at all; `OmniEdge.resume` takes it up again.

        A user's turn may be open; of a reply in progress the file holds the tokens so far. The size is that of the
        positions in use, see `omni-edge info`.

        Raises:
            UsageError: a live sound is open, or the file cannot be written.
            ResourceError: the disk is full.
        """
        if self._live is not None and self._live.state is not None:
            raise UsageError("A live sound is open. Complete it (end=True) before the conversation is saved.")
        pending = self._context.pending
        if pending.holds_media:
            self._context.prefill()
        header = saved.Header(
            bundle=self._model.bundle.manifest_sha256(),
            settings=self._settings.reusable(self._voice),
            reply_starts=tuple(self._reply_starts),
            reply_stops=tuple(self._reply_stops),
            turn_open=self._turn_open,
            text=pending.text,
            next_id=pending.positions.next,
            highest_id=pending.positions.highest,
            replies_evicted=self._replies_evicted,
        )
        saved.write(Path(path), header, self._context.arrays())

    # -- the user's turn ---------------------------------------------------------------------------------------

    @contextmanager
    def _user_turn(self) -> Iterator[None]:
        """Opens the user's turn where it is not open; an error within leaves the conversation as it was."""
        with self._context.unchanged_on_error():
            stops = list(self._reply_stops)
            pending = self._context.pending
            if not self._turn_open:
                if self._reply_starts:
                    stops.append(self._context.offset)
                    pending.end_turn()
                elif not self._context.offset and self._settings.system:
                    pending.system(self._settings.system)
                pending.user()
            yield
        self._reply_stops, self._turn_open = stops, True

    def _reserve(self, count: int) -> None:
        """Checks that `count` more positions fit beside what waits and the marks around a turn."""
        opening = 0
        if not self._context.offset:
            opening = len(self._model.tokenizer.encode(self._settings.system))
        self._context.reserve(opening + count + _MARKS_PER_TURN)

    # -- sound, pictures, videos -------------------------------------------------------------------------------

    def _push_clip(self, clip: AudioClip) -> None:
        self._reserve(self._media.sound_tokens(clip))
        embeds = self._media.sound(self._media.sound_blocks(clip))
        with self._user_turn():
            pending = self._context.pending
            pending.begin_sound()
            pending.sound(embeds)
            pending.end_sound()
            self._context.prefill()

    def _push_piece(self, piece: PcmBlock, wait: bool = False) -> None:
        """The next piece of a live sound; with `wait` its last block is prefilled later."""
        front_end, live = self._model.audio_front_end, self._live or LiveSound()
        state = live.state or front_end.state(piece.rate)
        if state.rate != piece.rate:
            raise UsageError(
                f"This sound came at {state.rate} Hz, and now at {piece.rate}. End it (end=True) before changing."
            )
        try:
            blocks = front_end.step(piece.samples, state, piece.end)
        except MediaError:
            if state.ended:
                self._live = None
            raise
        live.state = state
        self._live = None if piece.end else live
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
        self._reserve(seen + block.tokens)
        shown = media.live_chunk(video, block) if video is not None else None
        embeds = media.sound([block])
        with self._user_turn():
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
        if self._live is not None and self._live.begun and self._live.video is None:
            # A live video starts with its sound.
            self._end_sound()
        live = self._live or LiveSound()
        video = live.video or self._media.live_video()
        self._media.add_frame(video, frame.pixels, live.seconds(self._model.manifest.audio.sample_rate))
        live.video, self._live = video, live

    def _end_sound(self, wait: bool = False) -> None:
        live, self._live = self._live, None
        if live is not None and live.state is not None:
            self._live = live
            self._push_piece(PcmBlock(np.zeros(0, np.float32), live.state.rate, end=True), wait)

    def _push_picture(self, picture: ImageFrame) -> None:
        patches = self._media.picture_patches(picture)
        self._reserve(self._media.vision_tokens(patches))
        embeds = self._media.patches(patches)
        _, height, width = self._media.merged(patches)
        with self._user_turn():
            self._context.pending.picture(embeds, height, width)
            self._context.prefill()

    def _push_video(self, clip: VideoClip) -> None:
        media = self._media
        video = media.video_patches(clip)
        sound_blocks = media.video_sound_blocks(clip.sound)
        self._reserve(media.vision_tokens(video) + sum(block.tokens for block in sound_blocks))
        embeds = media.patches(video)
        sound_embeds = media.sound(sound_blocks) if sound_blocks else None
        with self._user_turn():
            self._context.pending.video(embeds, media.merged(video), video.seconds_per_grid, sound_embeds)
            self._context.prefill()

    # -- the reply ---------------------------------------------------------------------------------------------

    @property
    def _reply_number(self) -> int:
        """The number of the reply that begins; names its random streams."""
        return self._replies_evicted + len(self._reply_starts)

    def _begin_reply(
        self,
        began: float,
        prefilled: float,
        chosen: ReplySettings,
        max_new_tokens: int | None,
        max_codec_tokens: int | None,
    ) -> Reply:
        limit = self._settings.sampling.max_new_tokens if max_new_tokens is None else max_new_tokens
        return Reply(
            context=self._context,
            sampler=self._token_source(chosen),
            limit=limit,
            eos=self._model.manifest.text.eos_tokens,
            stream=self._model.tokenizer.stream(),
            speech=self._begin_speech(chosen, max_codec_tokens) if chosen.speech else None,
            began=began,
            prefill_seconds=prefilled,
            stop=StopStrings(chosen.stop),
            unspoken=StopStrings(chosen.unspoken),
        )

    def _token_source(self, chosen: ReplySettings) -> TokenSource:
        manifest = self._model.manifest
        if chosen.text is not None:
            return GivenTokens([*self._model.tokenizer.encode(chosen.text), manifest.text.eos_tokens[0]])
        stream = (self._seed(chosen), _THINKER_STREAM, self._reply_number)
        rules = self._settings.sampling if chosen.sampling is None else chosen.sampling.over(self._settings.sampling)
        sampler = Sampler(rules, stream, manifest.thinker.vocab_size, mask=chosen.mask)
        sampler.observe(self._context.tokens)
        return sampler

    def _seed(self, chosen: ReplySettings) -> int:
        return self._settings.seed if chosen.seed is None else chosen.seed

    def _begin_speech(self, chosen: ReplySettings, max_codec_tokens: int | None) -> Speech | None:
        settings, talker, talker_state = self._settings, self._model.talker, self._context.talker
        if talker is None or talker_state is None or settings.talker_sampling is None:
            return None
        vocoder, turn, seed = self._model.vocoder(), self._reply_number, self._seed(chosen)
        return Speech(
            talker=talker,
            talker_state=talker_state,
            vocoder=vocoder,
            vocoder_state=vocoder.state(self._voice, (seed, turn), settings.solver, settings.chunks),
            voice=self._model.voice_embed(self._voice),
            positions=self._context.positions,
            sampling=settings.talker_sampling,
            limit=settings.talker_sampling.max_new_tokens if max_codec_tokens is None else max_codec_tokens,
            seed=(seed, _TALKER_STREAM, turn),
        )
