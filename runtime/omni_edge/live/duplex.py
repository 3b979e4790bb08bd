"""A conversation that listens while it speaks: microphone blocks and pictures in from any thread, events out of one.

Turns and interruptions are decided where the microphone is pushed, in about a millisecond, whatever the model computes
meanwhile. The model runs where `events` is iterated, and nowhere else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Condition, RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.samples import validate_pcm, validate_rate
from omni_edge.conversation.session import Session
from omni_edge.errors import UsageError
from omni_edge.events import ImageFrame, Media, PcmBlock
from omni_edge.live.camera import Camera
from omni_edge.live.events import Level, LiveEvent
from omni_edge.live.hearing import EchoGate, Heard, Hearing
from omni_edge.live.playback import InstantSink, Playback, SpeechSink
from omni_edge.live.talk import Talk
from omni_edge.live.turn_detector import Transition

_LEVEL_SECONDS = 0.1
_QUIETEST_DECIBELS = -120.0
_WAIT_SECONDS = 0.5
# The first sound of a turn is at most so old when the turn is known: a pre-roll, and speech with gaps.
_LONGEST_ONSET_SECONDS = 3.0


@dataclass(frozen=True)
class _End:
    """The user's turn is over."""

    time: float
    playback: Playback


@dataclass(frozen=True)
class _Rejoin:
    """The user continues a turn that was over."""

    heard: Heard


@dataclass(frozen=True)
class _Interrupt:
    """The reply was interrupted after `played` samples."""

    played: int


@dataclass(frozen=True)
class _Question:
    """A typed turn, at a time of the microphone (s)."""

    text: str
    time: float
    playback: Playback


class Duplex:
    """A live conversation on a session.

    Args:
        session: the conversation; nothing else may use it from now on.
        hearing: the microphone's turns.
        sink: the loudspeaker; None: speech is in the events alone and counts as heard when it leaves.
        half_duplex: mute the microphone while a reply is played, because the loudspeaker's echo would come back. With
            headphones or an echo canceller: False.
        max_new_tokens: longest reply, in text tokens; None: the bundle's default.
        max_codec_tokens: longest speech, in codec tokens; None: the bundle's default.
        clock: seconds; where speech comes slower than it is played, it is held back until a pause.
    """

    def __init__(
        self,
        session: Session,
        hearing: Hearing,
        *,
        sink: SpeechSink | None = None,
        half_duplex: bool = True,
        max_new_tokens: int | None = None,
        max_codec_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._hearing = session, hearing
        # Without a loudspeaker nothing can run dry.
        self._playback_clock = clock if sink is not None else None
        self._sink = sink if sink is not None else InstantSink()
        self._gate = EchoGate(hearing.settings.echo_tail) if half_duplex else None
        # Guards everything below. Held for a millisecond at a time, never while the model runs.
        self._lock = RLock()
        self._camera = Camera(session.camera_fps, self._lock)
        self._talk = Talk(session, self._camera, max_new_tokens, max_codec_tokens, clock)
        self._arrived = Condition(self._lock)
        self._inbox: deque[Any] = deque()
        self._playback: Playback | None = None
        self._closed = False
        self._level: list[NDArray[np.float32]] = []
        self._level_samples = 0

    # -- from any thread ---------------------------------------------------------------------------------------

    @property
    def playing(self) -> bool:
        """Whether a reply is being played."""
        with self._lock:
            return self._playback is not None and self._playback.playing

    @property
    def answering(self) -> bool:
        """Whether a reply is being computed or played."""
        with self._lock:
            return self._playback is not None and self._playback.active

    @property
    def seconds(self) -> float:
        """Sound of the microphone so far; the `time` of events counts in it."""
        with self._lock:
            return self._hearing.seconds

    def push(self, item: Media) -> None:
        """Takes the next block of the microphone, or a picture, video or sound for the user's turn.

        Args:
            item: a `PcmBlock` is the microphone's next block, any length, 20 ms for instance; ignored after `close`.
                Anything else belongs to the turn that is open or comes next.

        Raises:
            MediaError: the block is not sound.
            UsageError: the conversation was closed.
        """
        with self._lock:
            if isinstance(item, PcmBlock):
                # A microphone does not stop at once.
                if not self._closed:
                    self._hear(item)
            else:
                self._check_open()
                self._put(item)

    def push_camera(self, frame: ImageFrame, time: float | None = None) -> None:
        """Takes the next frame of the camera; one or two in a second are enough, see `SessionSettings.camera_fps`.

        The frames during the user's turn, and the last one before it, are the video to the turn's sound. A typed turn
        shows the latest one. Frames at other times are dropped; a camera that gives no frames counts as off.

        Args:
            frame: kept until the model has seen it, so its pixels must not change.
            time: when it was seen, in seconds of the microphone (`seconds`); None: now.
        """
        with self._lock:
            if self._closed:
                return
            now = self._hearing.seconds
            self._camera.add(frame, now if time is None else time)
            if not self._hearing.open and not any(isinstance(item, Heard) for item in self._inbox):
                self._camera.forget(now - _LONGEST_ONSET_SECONDS)

    def ask(self, text: str) -> None:
        """A typed turn, or the end of one that is open. A reply in progress is interrupted."""
        with self._lock:
            self._check_open()
            self._interrupt()
            for heard in self._hearing.end():
                if heard.transition is not Transition.ENDED:
                    self._put(heard)
            self._playback = self._new_playback()
            self._put(_Question(text, self._hearing.seconds, self._playback))

    def interrupt(self) -> bool:
        """Ends the reply in progress with the last word that was heard, as a key does; False: there is none."""
        with self._lock:
            return self._interrupt()

    def begin_turn(self) -> None:
        """Push-to-talk: the key went down. A reply in progress is interrupted."""
        with self._lock:
            self._interrupt()
            for heard in self._hearing.begin():
                self._put(heard)

    def end_turn(self) -> None:
        """Ends the user's turn at once: the key of push-to-talk went up."""
        with self._lock:
            for heard in self._hearing.end():
                self._put_heard(heard)

    def close(self) -> None:
        """The microphone has ended: an open turn ends and is answered, then `events` ends."""
        with self._lock:
            self.end_turn()
            self._closed = True
            self._arrived.notify_all()

    # -- on the conversation's thread --------------------------------------------------------------------------

    def events(self, *, wait: bool = True) -> Iterator[LiveEvent]:
        """What happens, as it happens; computes while it is iterated.

        Args:
            wait: for what comes, until `close`. False: end when nothing is left to do at present; call it again later.

        Raises:
            ContextFullError: the user's turn does not fit.
            MediaError: a picture cannot be used.

        An error drops the user's turn; the conversation is as before it, and a new call of `events` continues.
        """
        while True:
            talk = self._talk
            idle = self._idle
            item = self._next(wait and not talk.working and not (idle and talk.refilling))
            if item is not None:
                yield from self._take(item)
            elif talk.working:
                yield from talk.advance()
            elif idle and talk.refilling:
                talk.refill()
            else:
                return
            if self._idle:
                yield from talk.make_room()

    def leave(self) -> list[LiveEvent]:
        """Ends the conversation at once, so that the session can be saved or used without it.

        A reply in progress ends with the last word that was heard; a turn that is not over is forgotten.

        Returns:
            what happens to a reply in progress.
        """
        with self._lock:
            self._interrupt()
            self._closed = True
            waiting = list(self._inbox)
            self._inbox.clear()
        interrupted = [item for item in waiting if isinstance(item, _Interrupt)]
        events = [event for item in interrupted for event in self._talk.interrupt(item.played)]
        self._talk.forget_turn()
        return events

    @property
    def _idle(self) -> bool:
        """Whether nothing is said by either side, and nothing that happened waits to be taken."""
        with self._lock:
            return self._talk.idle and not self.answering and not self._inbox

    def _next(self, wait: bool) -> Any:
        """What arrived next; None: nothing, and it is not worth waiting."""
        with self._lock:
            while not self._inbox:
                if not wait or self._closed:
                    return None
                # With a limit: some systems do not interrupt a wait without one by Ctrl-C.
                self._arrived.wait(_WAIT_SECONDS)
            return self._inbox.popleft()

    def _take(self, item: Any) -> Iterator[LiveEvent]:
        talk = self._talk
        match item:
            case Level():
                yield item
            case Heard(transition=Transition.STARTED):
                yield from talk.start(item.time)
                yield from talk.listen(item.samples, item.time)
            case Heard(transition=Transition.PAUSED):
                if not self._resumes():
                    talk.pause()
            case Heard(transition=Transition.RESUMED):
                talk.resume()
                yield from talk.listen(item.samples, item.time)
            case Heard():
                yield from talk.listen(item.samples, item.time)
            case _End():
                yield from talk.end(item.time, item.playback)
            case _Rejoin():
                yield from talk.rejoin(item.heard.time)
                yield from talk.listen(item.heard.samples, item.heard.time)
            case _Interrupt():
                yield from talk.interrupt(item.played)
            case _Question():
                yield from talk.ask(item.text, item.time, item.playback)
            case _:
                talk.show(item)

    def _resumes(self) -> bool:
        """Whether the pause that is taken now is already known to be over."""
        with self._lock:
            return any(isinstance(item, Heard) and item.transition is Transition.RESUMED for item in self._inbox)

    # -- under the lock ----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("The conversation was closed. Start another one.")

    def _put(self, item: Any) -> None:
        self._inbox.append(item)
        self._arrived.notify_all()

    def _hear(self, block: PcmBlock) -> None:
        samples = validate_pcm(block.samples)
        playing = self.playing
        muted = self._gate is not None and self._gate.muted(samples.size / validate_rate(block.rate), playing)
        if muted:
            samples = np.zeros_like(samples)
        self._measure(samples, block.rate, muted)
        for heard in self._hearing.step(samples, block.rate, playing):
            self._put_heard(heard)

    def _put_heard(self, heard: Heard) -> None:
        playback = self._playback
        match heard.transition:
            case Transition.STARTED if playback is not None and playback.active:
                if playback.played:
                    self._interrupt()
                    self._put(heard)
                else:
                    self._discard(playback)
                    self._put(_Rejoin(heard))
            case Transition.RESUMED:
                # Stops the reply that is being computed in advance at its next step.
                self._session.cancel()
                self._put(heard)
            case Transition.ENDED:
                self._playback = self._new_playback()
                self._put(_End(heard.time, self._playback))
            case _:
                self._put(heard)

    def _new_playback(self) -> Playback:
        return Playback(self._sink, self._lock, self._playback_clock)

    def _interrupt(self) -> bool:
        playback = self._playback
        if playback is None or not playback.active:
            return False
        self._put(_Interrupt(self._discard(playback)))
        return True

    def _discard(self, playback: Playback) -> int:
        """Silences a reply and stops its computation at the next step; returns the samples that were heard."""
        played = playback.drop()
        self._session.cancel()
        self._playback = None
        return played

    def _measure(self, samples: NDArray[np.float32], rate: int, muted: bool) -> None:
        """Puts a `Level` for each 0.1 s; one that was not taken yet is replaced."""
        self._level.append(samples)
        self._level_samples += samples.size
        if self._level_samples < _LEVEL_SECONDS * rate:
            return
        power = sum(float(np.sum(part.astype(np.float64) ** 2)) for part in self._level) / self._level_samples
        decibels = max(_QUIETEST_DECIBELS, 10 * np.log10(power)) if power > 0 else _QUIETEST_DECIBELS
        self._level, self._level_samples = [], 0
        if self._inbox and isinstance(self._inbox[-1], Level):
            self._inbox.pop()
        self._put(Level(float(decibels), self._hearing.seconds, muted))
