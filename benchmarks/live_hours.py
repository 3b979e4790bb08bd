"""Long conversations, faster than real time: a room with an echo, a room full of people, an hour of talking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from live_room import Echo, Noise, Room, Simulation, speech_rate
from live_speech import Babble, Samples, clip, requests, silence

from omni_cli.echo_canceller import EchoCanceller
from omni_edge import (
    AudioChunk,
    Duplex,
    Hearing,
    Interrupted,
    LiveEvent,
    OmniEdge,
    SpeechStarted,
    TurnsEvicted,
    Underrun,
    VoiceDetector,
)
from omni_edge.backend.machine import memory
from omni_edge.errors import OmniEdgeError
from omni_edge.live.virtual_sink import VirtualSink

EchoControl = Literal["headphones", "half", "apm", "none"]

# A user who is not answered asks again after so long.
_PATIENCE_SECONDS = 20.0
# The turn's first sound is some 0.3 s before the speech; a decision comes up to 0.7 s behind it.
_BEFORE_SECONDS, _BEHIND_SECONDS = 0.6, 1.0
# In an hour: every so manyth request is said with a pause to think, and every so manyth reply is interrupted.
_PAUSE_EVERY, _INTERRUPT_EVERY = 5, 7
_PAUSE_SECONDS = 0.4
_INTERRUPT_AFTER_SECONDS = 0.1
_LONG_REPLY, _INTERRUPTION = "start a timer for forty five minutes", "thank you very much"


@dataclass
class Tally:
    """What happened in a long conversation; lengths in seconds of its clock.

    Attributes:
        seconds: how long it was.
        asked, answered: requests of the user, and replies that began to be played.
        interruptions_tried, interruptions: times that the user spoke into a reply, and that it stopped for it.
        false_turns: turns that began while the user was silent: noise, or its own voice.
        false_interruptions: replies that stopped while the user was silent.
        played: speech that was played.
        underruns, gap: gaps in replies, and their length together.
        cut_words: those of them that were at no pause of the speech.
        turns_evicted: turns that left the context.
        errors: what went wrong.
        resident: bytes of memory, each minute.
    """

    seconds: float = 0.0
    asked: int = 0
    answered: int = 0
    interruptions_tried: int = 0
    interruptions: int = 0
    false_turns: int = 0
    false_interruptions: int = 0
    played: float = 0.0
    underruns: int = 0
    gap: float = 0.0
    cut_words: int = 0
    turns_evicted: int = 0
    errors: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)


class LongTalk:
    """A user who asks, listens, interrupts now and then, and asks again.

    Args:
        engine: answers; loaded for one thread.
        detector: finds voices.
        control: what is done about the echo.
        noise: around the user; None: a hiss.
        interrupts: whether the user interrupts every seventh reply.
        pauses: whether every fifth request has a pause to think in its middle.
        between: shortest and longest silence behind a reply (s).
        context: positions.
        max_codec_tokens: longest reply.
    """

    def __init__(
        self,
        engine: OmniEdge,
        detector: VoiceDetector,
        control: EchoControl,
        noise: Noise | None = None,
        *,
        interrupts: bool,
        pauses: bool = False,
        between: tuple[float, float] = (0.7, 3.0),
        context: int | None = None,
        max_codec_tokens: int,
    ) -> None:
        rate = speech_rate(engine)
        self._sink = VirtualSink(rate)
        self.tally = Tally()
        self._interrupts, self._pauses, self._between = interrupts, pauses, between
        self._random = np.random.default_rng(0)
        self._requests = requests()
        room = Room(
            self._sink,
            echo=Echo(rate) if control != "headphones" else None,
            noise=noise,
            canceller=EchoCanceller() if control == "apm" else None,
        )
        session = engine.session(seed=0, context=context)
        self._duplex = Duplex(
            session,
            Hearing(detector),
            sink=self._sink,
            half_duplex=control == "half",
            max_codec_tokens=max_codec_tokens,
            clock=lambda: room.seconds,
        )
        self._simulation = Simulation(session, self._duplex, room, self._take)
        self._room = room

    def run(self, seconds: float) -> Tally:
        """Talks for so long."""
        turns = 0
        while self._room.seconds < seconds:
            turns += 1
            self._pass(self._random.uniform(*self._between))
            if self._interrupts and turns % _INTERRUPT_EVERY == 0:
                self._interrupt()
            else:
                self._ask(self._requests[self._random.integers(len(self._requests))].samples)
            self._until(lambda: not self._duplex.answering)
        tally, sink = self.tally, self._sink
        tally.seconds, tally.played = self._room.seconds, self._room.played
        tally.underruns, tally.gap = sink.underruns, sink.gap_samples / sink.rate
        return tally

    def _ask(self, words: Samples) -> None:
        """Says a request, and waits until the reply begins."""
        self.tally.asked += 1
        if self._pauses and self.tally.asked % _PAUSE_EVERY == 0:
            words = np.concatenate([words[: words.size // 2], silence(_PAUSE_SECONDS), words[words.size // 2 :]])
        self._room.say(words)
        self._until(lambda: self._room.silent)
        self._until(lambda: self._duplex.answering)

    def _interrupt(self) -> None:
        """Asks something and speaks into the reply."""
        self._ask(clip(_LONG_REPLY).samples)
        self._until(lambda: self._duplex.playing)
        self._pass(_INTERRUPT_AFTER_SECONDS)
        self.tally.interruptions_tried += 1
        self._ask(clip(_INTERRUPTION).samples)

    def _until(self, done: Callable[[], bool]) -> None:
        """Moves the clock until it is so, or the user is out of patience."""
        end = self._room.seconds + _PATIENCE_SECONDS
        while not done() and self._room.seconds < end:
            self._step()

    def _pass(self, seconds: float) -> None:
        end = self._room.seconds + seconds
        while self._room.seconds < end:
            self._step()

    def _step(self) -> None:
        try:
            self._simulation.step()
        except OmniEdgeError as error:
            self.tally.errors.append(f"{self._room.seconds:.1f} s: {error}")
        if self._room.seconds >= 60 * len(self.tally.resident):
            self.tally.resident.append(memory().resident)

    def _take(self, event: LiveEvent) -> None:
        tally, now = self.tally, self._room.seconds
        match event:
            case SpeechStarted(time=time):
                tally.false_turns += not self._room.spoke(time - _BEHIND_SECONDS, time + _BEFORE_SECONDS)
            case Interrupted():
                true = self._room.spoke(now - _BEHIND_SECONDS, now)
                tally.interruptions += true
                tally.false_interruptions += not true
            case AudioChunk():
                tally.answered += event.start == 0
            case Underrun():
                tally.cut_words += not event.at_pause
            case TurnsEvicted():
                tally.turns_evicted += event.turns


def echo_room(
    engine: OmniEdge, detector: VoiceDetector, control: EchoControl, seconds: float, max_codec_tokens: int
) -> Tally:
    """A loudspeaker that comes back into the microphone; only a canceller lets the user interrupt."""
    interrupts = control == "apm"
    return LongTalk(engine, detector, control, interrupts=interrupts, max_codec_tokens=max_codec_tokens).run(seconds)


def babble(
    engine: OmniEdge, detector: VoiceDetector, decibels: float, talkers: int, seconds: float, max_codec_tokens: int
) -> Tally:
    """A user with headphones, among people who talk all the time."""
    return LongTalk(
        engine,
        detector,
        "headphones",
        Babble(decibels, talkers),
        interrupts=False,
        between=(3, 20),
        max_codec_tokens=max_codec_tokens,
    ).run(seconds)


def hour(
    engine: OmniEdge, detector: VoiceDetector, seconds: float, context: int | None, max_codec_tokens: int
) -> Tally:
    """A conversation with headphones, in which the oldest turns leave."""
    return LongTalk(
        engine,
        detector,
        "headphones",
        interrupts=True,
        pauses=True,
        context=context,
        max_codec_tokens=max_codec_tokens,
    ).run(seconds)
