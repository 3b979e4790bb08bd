"""A room without devices: a microphone, a loudspeaker, the air between them, and a clock that moves by frames of 20 ms.

`RealTime` moves the clock at its pace. `Simulation` moves it as fast as the model computes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from live_speech import Hiss, Samples

from omni_cli.echo_canceller import EchoCanceller
from omni_edge import Duplex, LiveEvent, OmniEdge, PcmBlock, Session
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.live.virtual_sink import VirtualSink
from omni_edge.live.voice_detector import VOICE_RATE

FRAME_SECONDS = 0.02
FRAME = round(FRAME_SECONDS * VOICE_RATE)


def speech_rate(engine: OmniEdge) -> int:
    """Samples per second of what it says."""
    token2wav = engine.manifest.token2wav
    if token2wav is None:
        raise SystemExit("This bundle has no speech. Name one that was exported without --text-only.")
    return token2wav.sample_rate


class Noise(Protocol):
    """Sound that is always there."""

    def step(self, count: int) -> Samples:
        """The next samples, float32 [count] at 16 kHz."""


class Echo:
    """What the microphone records of the loudspeaker: quieter, later, with reverberation.

    Args:
        rate: samples per second of the loudspeaker.
        decibels: power of the echo beside that of what is played.
        delay: of the direct sound (s).
        reverberation: length of the tail, in which it falls by 52 dB (s).
    """

    def __init__(self, rate: int, decibels: float = -20.0, delay: float = 0.08, reverberation: float = 0.3) -> None:
        tail = round(reverberation * VOICE_RATE)
        reflections = np.random.default_rng(0).standard_normal(tail) * np.exp(-6 * np.arange(tail) / tail)
        response = np.concatenate([np.zeros(round(delay * VOICE_RATE)), [1.0], 0.1 * reflections])
        response *= 10 ** (decibels / 20) / np.sqrt(np.sum(response**2))
        self._size = 1 << int(response.size + FRAME - 1).bit_length()
        self._spectrum = np.fft.rfft(response, self._size)
        self._rate, self._state = rate, ResampleState()
        self._played = np.zeros(0, np.float32)
        self._coming = np.zeros(self._size)

    def step(self, played: Samples) -> Samples:
        """The echo, float32 [FRAME] at 16 kHz, while these 20 ms are played."""
        converted = resampler(self._rate, VOICE_RATE).step(played, self._state)
        if converted is not None:
            self._played = np.concatenate([self._played, converted])
        frame, self._played = self._played[:FRAME], self._played[FRAME:]
        if frame.any():
            self._coming += np.fft.irfft(np.fft.rfft(frame, self._size) * self._spectrum, self._size)
        echo = self._coming[:FRAME].astype(np.float32)
        self._coming = np.concatenate([self._coming[FRAME:], np.zeros(FRAME)])
        return echo


class Room:
    """Everything but the conversation.

    Args:
        sink: the loudspeaker.
        echo: what comes back of it; None: headphones.
        noise: around the user; None: a hiss.
        canceller: subtracts the echo from the microphone.
        keep: keep both sides, for `sides`.

    Attributes:
        played: speech that was played (s).
    """

    def __init__(
        self,
        sink: VirtualSink,
        *,
        echo: Echo | None = None,
        noise: Noise | None = None,
        canceller: EchoCanceller | None = None,
        keep: bool = False,
    ) -> None:
        self.sink = sink
        self._echo, self._noise, self._canceller = echo, noise or Hiss(), canceller
        self._frames = 0
        self.played = 0.0
        # What the user says, and what comes next: from when (s), and what.
        self._saying = np.zeros(0, np.float32)
        self._planned: tuple[float, Samples] | None = None
        # Begin and end of what the user said so far (s).
        self._spoken: list[tuple[float, float]] = []
        self._sides: tuple[list[Samples], list[Samples]] | None = ([], []) if keep else None

    @property
    def seconds(self) -> float:
        """The clock."""
        return self._frames * FRAME_SECONDS

    @property
    def speech_begin(self) -> float:
        """When the user began to say what was said last (s)."""
        return self._spoken[-1][0]

    @property
    def speech_end(self) -> float:
        """When the user ends or ended what was said last (s)."""
        return self._spoken[-1][1] if self._spoken else 0.0

    @property
    def silent(self) -> bool:
        """Whether the user is silent."""
        return not self._saying.size and self._planned is None

    def say(self, samples: Samples, after: float = 0.0) -> None:
        """In `after` seconds the user says this, float32 [n] at 16 kHz."""
        self._planned = self.seconds + after, samples

    def spoke(self, begin: float, end: float) -> bool:
        """Whether the user said something between two times (s)."""
        return any(start < end and stop > begin for start, stop in self._spoken)

    def frame(self) -> PcmBlock:
        """Plays and records the next 20 ms."""
        now = self.seconds
        if self._planned is not None and self._planned[0] <= now:
            self._saying, self._planned = self._planned[1], None
            self._spoken.append((now, now + self._saying.size / VOICE_RATE))
        self._frames += 1
        played = self.sink.advance(round(FRAME_SECONDS * self.sink.rate))
        self.played += FRAME_SECONDS * bool(played.any())
        said = np.zeros(FRAME, np.float32)
        part, self._saying = self._saying[:FRAME], self._saying[FRAME:]
        said[: part.size] = part
        recorded = said + self._noise.step(FRAME)
        if self._echo is not None:
            recorded = recorded + self._echo.step(played)
        if self._sides is not None:
            self._sides[0].append(recorded)
            self._sides[1].append(played)
        if self._canceller is not None:
            self._canceller.play(played, self.sink.rate)
            recorded = self._canceller.clean(recorded, VOICE_RATE)
        return PcmBlock(recorded, VOICE_RATE)

    def sides(self) -> tuple[Samples, Samples]:
        """What was recorded, float32 [n] at 16 kHz, and what was played, float32 [m] at the loudspeaker's rate."""
        assert self._sides is not None  # asked for
        recorded, played = self._sides
        return np.concatenate(recorded), np.concatenate(played)


class RealTime(threading.Thread):
    """Moves the clock at its pace: each frame is pushed when its last sample was recorded, never before.

    Args:
        duplex: the conversation.
        room: its room.

    Attributes:
        began: when the first sample was recorded (s, `time.perf_counter`).
        pushed: when the last frame began to be pushed.
    """

    def __init__(self, duplex: Duplex, room: Room) -> None:
        super().__init__(daemon=True)
        self._duplex, self._room = duplex, room
        self._ended = threading.Event()
        self.began = self.pushed = time.perf_counter()

    def run(self) -> None:
        self.began = time.perf_counter()
        while not self._ended.is_set():
            block = self._room.frame()
            time.sleep(max(0.0, self.began + self._room.seconds - time.perf_counter()))
            self.pushed = time.perf_counter()
            self._duplex.push(block)

    def end(self) -> None:
        """Ends the recording."""
        self._ended.set()
        self.join()


class Simulation:
    """A conversation on the room's clock. While the model computes, the clock moves by the time that it takes.

    Args:
        session: the conversation; computed by one thread.
        duplex: on this session.
        room: its room.
        take: gets every event.
        computed: gets begin and end of what was computed, on the clock (s).
    """

    def __init__(
        self,
        session: Session,
        duplex: Duplex,
        room: Room,
        take: Callable[[LiveEvent], None],
        computed: Callable[[float, float], None] | None = None,
    ) -> None:
        self.duplex, self.room, self._take, self._computed = duplex, room, take, computed
        self._owed, self._computing = 0.0, False
        for name in ("push", "end_sound", "reply", "refill", "evict", "trim", "restore"):
            setattr(session, name, self._timed(getattr(session, name)))

    def step(self) -> None:
        """The next 20 ms, and what they make the model compute."""
        self._tick()
        for event in self.duplex.events(wait=False):
            self._take(event)

    def run(self, seconds: float) -> None:
        """Moves the clock by at least so much."""
        end = self.room.seconds + seconds
        while self.room.seconds < end:
            self.step()

    def _tick(self) -> None:
        self.duplex.push(self.room.frame())

    def _timed(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """The same, and the clock moves by the time it takes: the processor's, so other programs do not count."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._computing:  # a part of what is timed already
                return compute(*args, **kwargs)
            self._computing, began = True, time.process_time()
            try:
                result = compute(*args, **kwargs)
            finally:
                self._computing = False
                self._pass(time.process_time() - began)
            return self._paced(result) if isinstance(result, Iterator) else result

        return timed

    def _paced(self, events: Iterator[Any]) -> Iterator[Any]:
        step = self._timed(lambda: next(events, None))
        while (event := step()) is not None:
            yield event

    def _pass(self, seconds: float) -> None:
        begin = self.room.seconds
        self._owed += seconds
        while self._owed >= FRAME_SECONDS:
            self._owed -= FRAME_SECONDS
            self._tick()
        if self._computed is not None:
            self._computed(begin, begin + seconds)
