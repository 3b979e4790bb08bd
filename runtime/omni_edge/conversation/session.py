"""A conversation: the one place that owns all of its state and conducts the models.

Whatever is pushed is encoded and prefilled as soon as it is complete; what an earlier turn prefilled is never prefilled
again. Offline is streaming with fresh state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.front_end import AudioBlock, AudioFrontEndState
from omni_edge.audio.samples import validate_pcm
from omni_edge.bundle.manifest import SamplingSection
from omni_edge.conversation.prompt import Prompt
from omni_edge.conversation.reply import Reply
from omni_edge.conversation.settings import SessionSettings, check_voice
from omni_edge.conversation.speech import Speech
from omni_edge.decoders.sampling import Sampler
from omni_edge.decoders.talker import Talker, TalkerState
from omni_edge.decoders.thinker import TalkerBlock
from omni_edge.decoders.tmrope import Positions
from omni_edge.errors import UsageError
from omni_edge.events import AudioClip, Event, ImageFrame, Media, PcmBlock, VideoClip
from omni_edge.model import Model
from omni_edge.vision.image_processor import ImageProcessor, VisionPatches, within_context

# Independent random streams of one seed.
_THINKER_STREAM, _TALKER_STREAM = range(2)
# Positions kept free for closing one turn and opening the next, roles included; generous.
_MARKS_PER_TURN = 24


class _Voice:
    """What a conversation that speaks has beside one that only writes."""

    def __init__(self, talker: Talker, sampling: SamplingSection, capacity: int) -> None:
        self.talker = talker
        self.sampling = sampling
        positions = min(capacity + sampling.max_new_tokens, talker.decoder.section.max_positions)
        self.state: TalkerState = talker.state(positions)


class Session:
    """A conversation on a model; made by `OmniEdge.session`. One thread at a time, except for `cancel`.

    An error leaves the conversation as it was before the call; of a live sound, the blocks before it stay.
    """

    def __init__(self, model: Model, settings: SessionSettings) -> None:
        manifest = model.manifest
        self._model = model
        self._settings = chosen = settings.complete(manifest)
        self._voice = chosen.voice
        self._images = ImageProcessor(within_context(manifest.vision, chosen.context, chosen.max_pixels))
        self._cache = model.thinker.cache(chosen.context)
        self._spoken: _Voice | None = None
        if chosen.talker_sampling is not None and model.talker is not None:
            self._spoken = _Voice(model.talker, chosen.talker_sampling, chosen.context)
        self._prompt = Prompt(model.thinker, model.tokenizer, manifest)
        self._cancelled = False
        self.reset()

    # -- what the caller sees ----------------------------------------------------------------------------------

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
        return self._spoken is not None

    @property
    def offset(self) -> int:
        """Positions of the context in use."""
        return self._cache.offset + self._prompt.size

    @property
    def capacity(self) -> int:
        """Positions that the conversation may use."""
        return self._cache.capacity

    @property
    def nbytes(self) -> int:
        """Bytes reserved for this conversation; resident is the part in use."""
        return self._cache.nbytes + (self._spoken.state.nbytes if self._spoken else 0)

    def reset(self) -> None:
        """Starts the conversation anew, with the same settings; the random streams start again too."""
        self._cache.reset()
        if self._spoken:
            self._spoken.state.reset()
        self._prompt.reset()
        self._logits: NDArray[np.float32] | None = None
        self._history: list[NDArray[np.int64]] = []
        self._backlog: list[TalkerBlock] = []
        self._unfed: list[int] = []
        self._reply: Reply | None = None
        self._sound: AudioFrontEndState | None = None
        self._sound_heard = False
        self._turn_open = False
        self._turns = 0

    def cancel(self) -> None:
        """Stops the reply in progress at its next step; safe from any thread.

        The conversation keeps the text written so far; the rest of the speech is dropped.
        """
        self._cancelled = True

    def push(self, item: str | Media) -> None:
        """Adds to the user's turn; sound and pictures are encoded and prefilled before it returns.

        Args:
            item: text, a whole sound, picture or video, or the next piece of a live sound (the last one with
                `end=True`; anything else that is pushed, and `reply`, end it too).

        Raises:
            MediaError: it cannot be used.
            ContextFullError: it does not fit.
        """
        self._settle()
        if not isinstance(item, PcmBlock):
            self._end_sound()
        match item:
            case str():
                self._reserve(len(self._model.tokenizer.encode(item)))
                self._open_turn()
                self._prompt.write(item)
            case PcmBlock():
                self._hear(item)
            case AudioClip():
                self._push_clip(item)
            case ImageFrame():
                self._push_picture(self._images.image(item.pixels))
            case VideoClip():
                self._push_video(item)
            case _:
                raise UsageError(f"A session takes text, sound, pictures and videos, not {type(item).__name__}.")

    def reply(self, *, max_new_tokens: int | None = None, max_codec_tokens: int | None = None) -> Iterator[Event]:
        """Ends the user's turn and answers.

        Args:
            max_new_tokens: text tokens at most; None: the bundle's default.
            max_codec_tokens: codec tokens at most (50 a second of speech); None: the bundle's default.

        Returns:
            an iterator over `TextDelta`, `AudioChunk` and finally `TurnDone`. Abandoning it ends the reply where it
            stands.

        Raises:
            UsageError: nothing was pushed.
            ContextFullError: the turn's closing marks do not fit.
        """
        began = time.perf_counter()
        self._cancelled = False
        self._settle()
        self._end_sound()
        if not self._turn_open:
            raise UsageError("There is nothing to answer: push text, sound or a picture first.")
        self._prompt.end_turn()
        self._prompt.assistant()
        self._turn_open = False
        self._prefill()
        prefilled = time.perf_counter() - began
        self._turns += 1
        reply = self._reply = self._begin_reply(began, prefilled, max_new_tokens, max_codec_tokens)
        # An iterator that is still held when the conversation goes on must not write into it any more.
        return reply.events(lambda: self._cancelled or self._reply is not reply)

    # -- the user's turn ---------------------------------------------------------------------------------------

    def _open_turn(self) -> None:
        if self._turn_open:
            return
        if self._turns:
            self._prompt.tokens(self._unfed)
            self._unfed = []
            self._prompt.end_turn()
        elif not self._cache.offset and not self._prompt.size:
            self._prompt.system(self._settings.system)
        self._prompt.user()
        self._turn_open = True

    def _reserve(self, count: int) -> None:
        """Checks that `count` more positions fit beside what is waiting and the marks around a turn."""
        opening = 0 if self._turns or self._turn_open else len(self._model.tokenizer.encode(self._settings.system))
        self._model.thinker.decoder.reserve(self._prompt.size + opening + count + _MARKS_PER_TURN, self._cache)

    def _prefill(self) -> None:
        """Puts everything that is waiting into the caches."""
        blocks = self._prompt.take()
        if not blocks:
            return
        told, self._logits = self._model.thinker.step(blocks, self._cache)
        self._history.extend(block.tokens for block in blocks)
        if self._spoken:
            self._backlog.append(told)
            states = np.concatenate([block.states for block in self._backlog])
            positions = np.concatenate([block.positions for block in self._backlog], axis=1)
            self._backlog = []
            self._spoken.talker.listen(TalkerBlock(states, positions), self._spoken.state)

    # -- sound, pictures, videos -------------------------------------------------------------------------------

    def _encode_sound(self, blocks: list[AudioBlock]) -> NDArray[np.float32]:
        return self._model.audio_encoder().encode([block.frames for block in blocks])

    def _push_clip(self, clip: AudioClip) -> None:
        self._reserve(self._model.audio_front_end.tokens(len(clip.samples), clip.rate))
        blocks = self._model.audio_front_end.clip(clip.samples, clip.rate)
        embeds = self._encode_sound(blocks)
        self._open_turn()
        self._prompt.begin_sound()
        self._prompt.sound(embeds)
        self._prompt.end_sound()
        self._prefill()

    def _hear(self, piece: PcmBlock) -> None:
        ear = self._model.audio_front_end
        if self._sound is not None and self._sound.rate != piece.rate:
            raise UsageError(
                f"This sound came at {self._sound.rate} Hz, and now at {piece.rate}. End it (end=True) before changing."
            )
        state = self._sound if self._sound is not None else ear.state(piece.rate)
        samples = validate_pcm(piece.samples)
        self._sound = None if piece.end else state
        blocks = ear.step(samples, state, piece.end)
        for block in blocks:
            self._reserve(block.tokens)
            embeds = self._encode_sound([block])
            self._open_turn()
            if not self._sound_heard:
                self._prompt.begin_sound()
                self._sound_heard = True
            self._prompt.sound(embeds)
            self._prefill()
        if piece.end and self._sound_heard:
            self._prompt.end_sound()
            self._sound_heard = False

    def _end_sound(self) -> None:
        if self._sound is not None:
            self._hear(PcmBlock(np.zeros(0, np.float32), self._sound.rate, end=True))

    def _push_picture(self, picture: VisionPatches) -> None:
        self._reserve(self._tokens(picture))
        embeds = self._model.vision_encoder().encode(picture.patches, picture.grid)
        _, height, width = self._merged(picture)
        self._open_turn()
        self._prompt.picture(embeds, height, width)
        self._prefill()

    def _push_video(self, clip: VideoClip) -> None:
        video = self._images.video(clip.frames, clip.fps)
        # A track of a few milliseconds, as cutting tools leave behind, is no sound.
        sound = clip.sound
        heard = sound is not None and self._model.audio_front_end.tokens(len(sound.samples), sound.rate) > 0
        blocks = self._model.audio_front_end.clip(sound.samples, sound.rate) if sound is not None and heard else []
        self._reserve(self._tokens(video) + sum(block.tokens for block in blocks))
        embeds = self._model.vision_encoder().encode(video.patches, video.grid)
        spoken = self._encode_sound(blocks) if blocks else None
        self._open_turn()
        self._prompt.video(embeds, self._merged(video), video.seconds_per_grid, spoken)
        self._prefill()

    def _merged(self, patches: VisionPatches) -> tuple[int, int, int]:
        merge = self._model.manifest.vision.merge_size
        frames, height, width = patches.grid
        return frames, height // merge, width // merge

    def _tokens(self, patches: VisionPatches) -> int:
        return int(np.prod(self._merged(patches)))

    # -- the reply ---------------------------------------------------------------------------------------------

    def _begin_reply(
        self, began: float, prefilled: float, max_new_tokens: int | None, max_codec_tokens: int | None
    ) -> Reply:
        manifest, settings = self._model.manifest, self._settings
        assert self._logits is not None  # a turn was prefilled
        sampler = Sampler(settings.sampling, (settings.seed, _THINKER_STREAM, self._turns), self._logits.size)
        for tokens in self._history:
            sampler.observe(tokens)
        return Reply(
            thinker=self._model.thinker,
            cache=self._cache,
            positions=self._prompt.positions,
            logits=self._logits,
            sampler=sampler,
            limit=settings.sampling.max_new_tokens if max_new_tokens is None else max_new_tokens,
            eos=manifest.text.eos_tokens,
            stream=self._model.tokenizer.stream(),
            speech=self._begin_speech(max_codec_tokens) if self._spoken else None,
            began=began,
            prefill_seconds=prefilled,
        )

    def _begin_speech(self, max_codec_tokens: int | None) -> Speech:
        spoken = self._spoken
        assert spoken is not None
        limit = spoken.sampling.max_new_tokens if max_codec_tokens is None else max_codec_tokens
        positions = self._prompt.positions
        vocoder, settings = self._model.vocoder(), self._settings
        return Speech(
            talker=spoken.talker,
            talker_state=spoken.state,
            vocoder=vocoder,
            vocoder_state=vocoder.state(
                self._voice, (self._settings.seed, self._turns), self._settings.solver, self._settings.chunks
            ),
            voice=self._model.voice_embed(self._voice),
            positions=Positions(positions.next, positions.highest),
            sampling=spoken.sampling,
            limit=limit,
            seed=(settings.seed, _TALKER_STREAM, self._turns),
        )

    def _settle(self) -> None:
        """Takes over what the last reply left, finished or not."""
        reply, self._reply = self._reply, None
        if reply is None:
            return
        fed = reply.tokens[: len(reply.told)]
        self._history.append(np.array(fed, np.int64))
        self._unfed = list(reply.unfed)
        if self._spoken:
            self._backlog.extend(reply.told)
