"""The conversation behind a live one: what turns, pauses and interruptions do to the session. One thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from omni_edge.conversation.session import Session
from omni_edge.conversation.snapshot import SessionSnapshot
from omni_edge.errors import ContextFullError, MediaError, OmniEdgeError
from omni_edge.events import AudioChunk, CameraFrame, Event, Media, PcmBlock, TextDelta, TurnDone
from omni_edge.live.camera import Camera
from omni_edge.live.events import (
    ContextUse,
    Interrupted,
    LiveEvent,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TurnCut,
    TurnsEvicted,
)
from omni_edge.live.heard_words import DEFAULT_CHARACTERS_PER_SECOND, heard_characters, heard_tokens
from omni_edge.live.phrases import SpeechSpeed
from omni_edge.live.playback import Playback
from omni_edge.live.voice_detector import VOICE_RATE

# Shares of the context: in use from which turns leave between turns, what stays then, what a reply needs.
_FULL, _KEPT, _REPLY = 3 / 4, 1 / 2, 1 / 8
# Positions of the turns that stay that are prefilled at a time, between two looks at the microphone.
REFILL_POSITIONS = 128


@dataclass
class Answer:
    """A reply in progress, or complete and still being played.

    Attributes:
        before_turn: the conversation before the user's turn.
        before: the conversation before that turn was closed.
        events: the session's.
        start: offset of its first token.
        playback: its way to the loudspeaker; None: it is computed in advance, and nothing may be seen or heard of it.
        held: events that are held back meanwhile.
        pieces: text of each token.
        samples: length of its speech so far.
        rate: samples per second of its speech.
        finished: whether it is complete.
        spoken: whether the speech is complete too: not cut off by a limit or an interruption.
        computed: compute seconds so far.
        speed: how fast its speech comes.
    """

    before_turn: SessionSnapshot
    before: SessionSnapshot
    events: Iterator[Event]
    start: int
    playback: Playback | None = None
    held: list[Event] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    samples: int = 0
    rate: int = 0
    finished: bool = False
    spoken: bool = False
    computed: float = 0.0
    speed: SpeechSpeed = field(default_factory=SpeechSpeed)


class Talk:
    """The state of a live conversation on a session.

    Args:
        session: the conversation.
        camera: its frames.
        max_new_tokens: longest reply, in text tokens; None: the bundle's default.
        max_codec_tokens: longest speech, in codec tokens; None: the bundle's default.
        clock: seconds.
    """

    def __init__(
        self,
        session: Session,
        camera: Camera,
        max_new_tokens: int | None = None,
        max_codec_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._camera, self._clock = session, camera, clock
        session.keep_media()
        self._limits = max_new_tokens, max_codec_tokens
        self._answer: Answer | None = None
        # The conversation before the user's turn; None: none is open, or it was lost to an error.
        self._before_turn: SessionSnapshot | None = None
        self._shown: list[str | Media] = []
        self._turn_cut = False
        self._characters_per_second = DEFAULT_CHARACTERS_PER_SECOND
        # Of the last reply; None: nothing was spoken yet.
        self._rtf: float | None = None

    @property
    def working(self) -> bool:
        """Whether `advance` has something to compute."""
        return self._answer is not None and not self._answer.finished

    # -- the user's turn ---------------------------------------------------------------------------------------

    def start(self, time: float) -> Iterator[LiveEvent]:
        """The user's turn begins."""
        self._answer = None
        yield from self.make_room()
        self._before_turn, self._turn_cut = self._session.snapshot(), False
        yield SpeechStarted(time)

    def listen(self, samples: NDArray[np.float32], time: float) -> Iterator[LiveEvent]:
        """The next sound of the user's turn, float32 [n] at 16 kHz from `time` on, and what was seen meanwhile."""
        if not samples.size or self._before_turn is None or self._turn_cut:
            return
        needed = 2 * self._session.live_positions + int(self._session.capacity * _REPLY)
        if self._session.capacity - self._session.offset < needed:
            with self._lost_on_error():
                yield from self._evict(self._session.capacity - needed)
            # A turn that cannot even begin is refused below.
            if self._session.turn_open and self._session.capacity - self._session.offset < needed:
                self._turn_cut = True
                yield TurnCut(time)
                return
        used = self._session.offset
        with self._lost_on_error():
            for item in self._with_frames(samples, time):
                self._session.push(item)
        if self._session.offset != used:
            yield self._context_use()

    def _with_frames(self, samples: NDArray[np.float32], time: float) -> Iterator[Media]:
        """Sound from `time` on, cut where the camera's frames were seen."""
        done = 0
        for frame in self._camera.take(time, time + samples.size / VOICE_RATE):
            place = round((frame.time - time) * VOICE_RATE)
            if place > done:
                yield PcmBlock(samples[done:place], VOICE_RATE)
                done = place
            yield CameraFrame(frame.picture.pixels)
        yield PcmBlock(samples[done:], VOICE_RATE)

    def show(self, item: Media) -> None:
        """A picture, video or sound for the turn that is open or comes next; it is pushed behind the turn's sound."""
        self._shown.append(item)

    def pause(self) -> None:
        """The user may have finished: begins the reply, unseen and unheard. What goes wrong is said in `end`."""
        if self._before_turn is not None:
            with suppress(OmniEdgeError):
                self._answer = self._begin()

    def resume(self) -> None:
        """The user has not finished: the conversation is as it was before `pause`."""
        if self._answer is not None:
            self._session.restore(self._answer.before)
            self._answer = None

    def rejoin(self, time: float) -> Iterator[LiveEvent]:
        """The user continues a turn that was over, before anything was played."""
        if self._answer is not None:
            self._before_turn = self._answer.before_turn
        self.resume()
        yield SpeechResumed(time)

    def end(self, time: float, playback: Playback) -> Iterator[LiveEvent]:
        """The user's turn is over: what is held back of its reply comes out."""
        yield SpeechStopped(time)
        yield from self._release(playback)

    def ask(self, text: str, time: float, playback: Playback) -> Iterator[LiveEvent]:
        """A typed turn, which shows what the camera saw at `time`, or the typed end of one that is open."""
        if self._answer is not None and self._answer.playback is None:
            self.resume()
        self._answer = None
        if self._before_turn is None:
            yield from self.make_room()
            self._before_turn = self._session.snapshot()
            if (picture := self._camera.latest(time)) is not None:
                self._shown.append(picture)
        self._shown.append(text)
        yield from self._release(playback)

    def forget_turn(self) -> None:
        """The user's turn never began, where it is not over."""
        if self._answer is not None and self._answer.playback is not None:
            return
        before = self._before_turn
        if before is not None:
            self._session.restore(before)
        self._answer, self._before_turn, self._shown = None, None, []

    def _begin(self) -> Answer | None:
        """The reply to what was said and shown; None: that was nothing, such as a key that was touched."""
        before = self._session.snapshot()
        max_new_tokens, max_codec_tokens = self._limits
        try:
            with suppress(MediaError):  # too short for one audio token, or none is open
                self._session.end_sound()
            for item in self._shown:
                self._session.push(item)
            if not self._session.turn_open:
                return None
            events = self._session.reply(max_new_tokens=max_new_tokens, max_codec_tokens=max_codec_tokens)
        except BaseException:
            self._session.restore(before)
            raise
        speed = SpeechSpeed(self._rtf)
        return Answer(self._before_turn or before, before, events, self._session.offset, speed=speed)

    # -- room for more -----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no turn is open and no reply is being computed."""
        return self._before_turn is None and not self.working

    @property
    def refilling(self) -> bool:
        """Whether `refill` has something to compute."""
        return self._session.refilling

    def refill(self) -> None:
        """Prefills a part of the system prompt, or of the turns that stayed when others left."""
        self._session.refill(REFILL_POSITIONS)

    def make_room(self) -> Iterator[LiveEvent]:
        """Between turns: the oldest turns leave a context that is nearly full."""
        if self._session.offset > _FULL * self._session.capacity:
            self._answer = None
            yield from self._evict(int(_FULL * self._session.capacity))

    def _evict(self, last: int) -> Iterator[LiveEvent]:
        """The oldest turns leave; `last` positions may be in use where only the last turn stays."""
        eviction = self._session.evict(min(int(_KEPT * self._session.capacity), last), last)
        if eviction is None:
            return
        if self._before_turn is not None:
            self._before_turn = eviction.moved(self._before_turn)
            self._session.refill(self._session.capacity)
        yield TurnsEvicted(eviction.turns, eviction.positions)
        yield self._context_use()

    @contextmanager
    def _lost_on_error(self) -> Iterator[None]:
        """Within it, an error drops the user's turn, and the conversation is as before the turn."""
        try:
            yield
        except BaseException:
            before, self._before_turn, self._shown = self._before_turn, None, []
            if before is not None:
                self._session.restore(before)
            raise

    # -- the reply ---------------------------------------------------------------------------------------------

    def advance(self) -> Iterator[LiveEvent]:
        """Computes the reply's next event."""
        answer = self._answer
        assert answer is not None
        try:
            with _ends_on_error(answer.playback):
                began = self._clock()
                event = next(answer.events, None)
                answer.computed += self._clock() - began
        except BaseException:
            answer.finished = True
            raise
        if event is None:
            answer.finished = True
        else:
            yield from self._hold_or_yield(answer, event)

    def _release(self, playback: Playback) -> Iterator[LiveEvent]:
        """Lets the reply out, which `pause` may have begun."""
        if self._answer is None and self._before_turn is not None:
            with _ends_on_error(playback), self._lost_on_error():
                try:
                    self._answer = self._begin()
                except ContextFullError:
                    if not (evicted := list(self._evict(0))):
                        raise
                    yield from evicted
                    self._answer = self._begin()
        self._before_turn, self._shown = None, []
        answer = self._answer
        if answer is None:
            playback.complete()
            return
        answer.playback = playback
        held, answer.held = answer.held, []
        for event in held:
            yield from self._yield(answer, playback, event)

    def _hold_or_yield(self, answer: Answer, event: Event) -> Iterator[LiveEvent]:
        match event:
            case TextDelta() if event.token_ids:
                answer.pieces.append(event.text)
            case AudioChunk():
                answer.samples += event.samples.size
                answer.rate = event.rate
                answer.speed.add(event.samples.size / event.rate, answer.computed)
                self._rtf = answer.speed.rtf
            case TurnDone():
                answer.finished = True
                limit = self._limits[1]
                answer.spoken = event.finish_reason == "stop" and (limit is None or len(event.codec_tokens) < limit)
        if answer.playback is None:
            answer.held.append(event)
        else:
            yield from self._yield(answer, answer.playback, event)

    def _yield(self, answer: Answer, playback: Playback, event: Event) -> Iterator[LiveEvent]:
        if playback.dropped:
            return
        if isinstance(event, AudioChunk):
            underruns = playback.hand_over(event, answer.speed.rtf)
            if underruns is None:
                return
            yield from underruns
        if isinstance(event, TurnDone):
            yield from playback.complete()
            if answer.spoken and answer.samples:
                self._characters_per_second = len(event.text) * answer.rate / answer.samples
        yield event
        if isinstance(event, TurnDone):
            yield self._context_use()

    def interrupt(self, played: int) -> Iterator[LiveEvent]:
        """The reply ends with the last word that was heard: its first `played` samples."""
        answer = self._answer
        if answer is None or answer.playback is None:
            return
        self._answer = None
        count = len(answer.pieces)
        seconds = played / answer.rate if answer.rate else 0.0
        if self._session.speech:
            total = answer.samples / answer.rate if answer.spoken and answer.rate else None
            characters = sum(map(len, answer.pieces))
            heard = heard_characters(characters, seconds, total, self._characters_per_second)
            count = heard_tokens(answer.pieces, heard)
        # A last token that found no room is shown, but not part of the conversation.
        count = min(count, self._session.offset - answer.start)
        self._session.trim(answer.start + count)
        yield Interrupted("".join(answer.pieces[:count]), count, seconds)
        yield self._context_use()

    def _context_use(self) -> ContextUse:
        return ContextUse(self._session.offset, self._session.capacity)


@contextmanager
def _ends_on_error(playback: Playback | None) -> Iterator[None]:
    """Within it, an error ends the reply: nothing more comes to be played."""
    try:
        yield
    except BaseException:
        if playback is not None:
            playback.complete()
        raise
