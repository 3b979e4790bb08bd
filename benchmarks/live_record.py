"""A session that can be heard and seen: both sides as a WAV file, the transcript, and a picture of the timeline.

The words are the same each time, the times those of this machine's processor.
"""

from __future__ import annotations

import argparse
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from live_picture import session_svg
from live_room import Room, Simulation, speech_rate
from live_speech import Samples, clip
from live_turns import Turn, transcript

from omni_edge import (
    AudioChunk,
    Duplex,
    Hearing,
    Interrupted,
    LiveEvent,
    OmniEdge,
    Sampling,
    SpeechStopped,
    TextDelta,
    VoiceDetector,
)
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.live.virtual_sink import VirtualSink
from omni_edge.live.voice_detector import VOICE_RATE
from omni_edge.media.wav import pcm16

_MAX_CODEC_TOKENS = 300
_GREEDY = Sampling(temperature=0)
_PATIENCE_SECONDS = 10.0
_BEFORE_SECONDS, _BEHIND_SECONDS = 0.5, 0.8


@dataclass(frozen=True)
class Line:
    """What the user says.

    Attributes:
        text, voice: see `clip`.
        into: seconds of the reply before it, which it interrupts; None: the user waits for the end.
    """

    text: str
    voice: str
    into: float | None = None


# A question and its answer; a follow-up, whose answer is interrupted; a follow-up of the interruption.
SCRIPT = (
    Line("set a timer for eleven minutes", "rms"),
    Line("change it to nineteen", "m3"),
    Line("switch off the bathroom fan", "scotland", into=0.3),
    Line("what did i say", "rms"),
)


class Recording:
    """A session with headphones, and what happens in it."""

    def __init__(self, engine: OmniEdge) -> None:
        self._sink = VirtualSink(speech_rate(engine))
        session = engine.session(seed=0, sampling=_GREEDY)
        self.room = Room(self._sink, keep=True)
        self._duplex = Duplex(
            session,
            Hearing(VoiceDetector()),
            sink=self._sink,
            half_duplex=False,
            max_codec_tokens=_MAX_CODEC_TOKENS,
            clock=lambda: self.room.seconds,
        )
        self.turns: list[Turn] = []
        # Begin and end of what was computed (s).
        self.computed: list[tuple[float, float]] = []
        self._simulation = Simulation(
            session, self._duplex, self.room, self._take, lambda begin, end: self.computed.append((begin, end))
        )

    def play(self, script: tuple[Line, ...]) -> None:
        """Says the lines."""
        self._simulation.run(_BEFORE_SECONDS)
        for line in script:
            if line.into is not None:
                self._until(lambda: self._duplex.playing)
                self._simulation.run(line.into)
            else:
                self._until(lambda: not self._duplex.answering)
                self._simulation.run(_BEHIND_SECONDS if self.turns else 0.0)
            spoken = clip(line.text, line.voice).samples
            self.room.say(spoken)
            self._simulation.step()
            self.turns.append(Turn(line.text, self.room.speech_begin, self.room.speech_end))
            self._until(lambda: self.room.silent)
            self._until(lambda: self.turns[-1].decided is not None)
        self._until(lambda: not self._duplex.answering)
        self._simulation.run(_BEHIND_SECONDS)

    def sides(self) -> tuple[Samples, Samples]:
        """What the user said and what was played, float32 [n] each, at the loudspeaker's rate."""
        recorded, played = self.room.sides()
        user = resampler(VOICE_RATE, self._sink.rate).step(recorded, ResampleState(), end=True)
        assert user is not None  # there is sound
        count = min(user.size, played.size)
        return user[:count], played[:count]

    @property
    def rate(self) -> int:
        """Samples per second of both sides."""
        return self._sink.rate

    def _until(self, done: Callable[[], bool]) -> None:
        end = self.room.seconds + _PATIENCE_SECONDS
        while not done() and self.room.seconds < end:
            self._simulation.step()

    def _take(self, event: LiveEvent) -> None:
        if not self.turns:
            return
        turn, now = self.turns[-1], self.room.seconds
        match event:
            case SpeechStopped():
                turn.decided = now
            case TextDelta():
                turn.reply += event.text
            case AudioChunk():
                turn.first_sound = turn.first_sound or now
            case Interrupted():
                # The turn that interrupts is the last one already.
                before = self.turns[-2]
                before.reply, before.interrupted = event.text, now


def write_wave(path: Path, sides: tuple[Samples, Samples], rate: int) -> None:
    """Writes the user's side as the left channel, the reply as the right one."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(pcm16(np.stack(sides, axis=1)))


def record(options: argparse.Namespace) -> None:
    """A session with virtual devices: WAV (left: user, right: reply), transcript, picture."""
    recording = Recording(OmniEdge.load(options.model, threads=1))
    recording.play(SCRIPT)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    write_wave(folder / "session.wav", recording.sides(), recording.rate)
    lines = transcript(recording.turns)
    (folder / "session.txt").write_text(lines, "utf-8")
    picture = session_svg(recording.sides(), recording.rate, recording.turns, recording.computed)
    (folder / "session.svg").write_text(picture, "utf-8")
    print(lines, end="")
