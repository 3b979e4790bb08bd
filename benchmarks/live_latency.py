"""How long a user waits for the first sound, and how fast an interruption works; in real time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from live_room import FRAME_SECONDS, RealTime, Room, speech_rate
from live_speech import clip, clips, question

from omni_edge import (
    AudioChunk,
    ChunkSchedule,
    Duplex,
    Hearing,
    Interrupted,
    OmniEdge,
    Session,
    SpeechStopped,
    TextDelta,
    TurnDone,
    VoiceDetector,
)
from omni_edge.backend.machine import memory
from omni_edge.live.virtual_sink import VirtualSink

LONGEST_WAIT_SECONDS = 300.0
# The user interrupts so long after the first sound, in the first run; each further run is a little later.
_INTERRUPT_AFTER_SECONDS, _LATER_SECONDS = 0.1, 0.05
# A microphone does not open within a word.
_BEFORE_SECONDS = 0.5
_INTERRUPTION = "thank you very much"


class _TimedSink(VirtualSink):
    """A loudspeaker that keeps times: of its first sound, of its stop and of the frame that decided it.

    All are seconds of `time.perf_counter`.
    """

    clock: RealTime | None = None
    began: float | None = None
    decided: float | None = None
    stopped: float | None = None

    def begin(self) -> None:
        super().begin()
        self.began = time.perf_counter()

    def stop(self) -> None:
        super().stop()
        self.decided = self.clock.pushed if self.clock is not None else None
        self.stopped = time.perf_counter()


@dataclass(frozen=True)
class Wait:
    """One question; times in seconds after the last sample of the speech, None: it never came.

    Attributes:
        question: length of the speech (s).
        endpoint: until the turn was over.
        first_text, first_sound: until the first text token, and the first playable sample.
        first_played: until the loudspeaker began; a machine slower than real time holds sound back before.
        gap_p50, gap_max: seconds between the arrivals of chunks of speech.
        underruns, gap: gaps in the playback, and their length together (s).
        speech: length of the reply (s).
        rtf: compute seconds of the reply per second of speech.
        peak_rss: bytes.
    """

    question: float
    endpoint: float | None
    first_text: float | None
    first_sound: float | None
    first_played: float | None
    gap_p50: float | None
    gap_max: float | None
    underruns: int
    gap: float
    speech: float
    rtf: float | None
    peak_rss: int


def measure_wait(
    engine: OmniEdge, detector: VoiceDetector, seconds: float, run: int, pause: float, limits: tuple[int, int]
) -> Wait:
    """Asks one question of a fresh conversation; each run has another one."""
    sink = _TimedSink(speech_rate(engine))
    # The chunks of `omni-edge chat`.
    session = engine.session(seed=run, chunks=ChunkSchedule.named("paced"))
    duplex = Duplex(session, Hearing(detector), sink=sink, max_new_tokens=limits[0], max_codec_tokens=limits[1])
    # Nobody speaks before the conversation is there: its system prompt is prefilled.
    for _ in duplex.events(wait=False):
        pass
    room = Room(sink)
    room.say(question(seconds, 3 * run, pause), _BEFORE_SECONDS)
    clock = RealTime(duplex, room)
    first: dict[type, float] = {}
    chunks: list[float] = []
    done: TurnDone | None = None
    clock.start()
    for event in duplex.events():
        now = time.perf_counter()
        first.setdefault(type(event), now)
        if isinstance(event, AudioChunk):
            chunks.append(now)
        elif isinstance(event, TurnDone):
            done = event
        if done is not None or now > clock.began + room.speech_end + LONGEST_WAIT_SECONDS:
            break
    while duplex.answering and done is not None:
        time.sleep(FRAME_SECONDS)
    clock.end()
    gaps = np.diff(chunks)

    def after(kind: type) -> float | None:
        return first[kind] - clock.began - room.speech_end if kind in first else None

    return Wait(
        question=seconds,
        endpoint=after(SpeechStopped),
        first_text=after(TextDelta),
        first_sound=after(AudioChunk),
        first_played=sink.began - clock.began - room.speech_end if sink.began is not None else None,
        gap_p50=float(np.median(gaps)) if gaps.size else None,
        gap_max=float(gaps.max()) if gaps.size else None,
        underruns=sink.underruns,
        gap=sink.gap_samples / sink.rate,
        speech=sink.played / sink.rate,
        rtf=done.metrics.rtf if done is not None else None,
        peak_rss=memory().peak,
    )


@dataclass(frozen=True)
class Interruption:
    """One interruption; None: it did not happen.

    Attributes:
        onset_to_decision: from the user's first sample until the frame that decides came (s).
        decision_to_silence: until the loudspeaker was silent, the 20 ms that it was playing included (s).
        decision_to_stop: until the session stopped computing; 0: the reply was complete (s).
        decision_to_event: until `Interrupted` (s).
        generating: whether the reply was still being computed.
        events_after: events of the reply that the session began to compute after the decision.
        heard: the words that the conversation keeps.
        played: speech that was played (s).
    """

    onset_to_decision: float | None
    decision_to_silence: float | None
    decision_to_stop: float | None
    decision_to_event: float | None
    generating: bool
    events_after: int
    heard: str | None
    played: float


class _Steps:
    """When the session computed each event of its reply (s, `time.perf_counter`)."""

    def __init__(self, session: Session) -> None:
        self.times: list[tuple[float, float]] = []
        self.complete = False
        self._session_reply: Callable[..., Iterator[Any]] = session.reply
        session.reply = self._reply  # type: ignore[method-assign]

    def _reply(self, **limits: Any) -> Iterator[Any]:
        # Not a generator itself: the turn is closed at once, as by the session.
        return self._events(self._session_reply(**limits))

    def _events(self, events: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            event = next(events, None)
            self.times.append((began, time.perf_counter()))
            if event is None:
                return
            self.complete = isinstance(event, TurnDone) and event.finish_reason != "cancelled"
            yield event


def measure_interruption(
    engine: OmniEdge, detector: VoiceDetector, run: int, settings: dict[str, Any], limits: tuple[int, int]
) -> Interruption:
    """Asks a question of a fresh conversation and interrupts the reply."""
    sink = _TimedSink(speech_rate(engine))
    session = engine.session(seed=run, **settings)
    steps = _Steps(session)
    duplex = Duplex(
        session, Hearing(detector), sink=sink, half_duplex=False, max_new_tokens=limits[0], max_codec_tokens=limits[1]
    )
    room = Room(sink)
    room.say(clips()[run % len(clips())].samples)
    sink.clock = clock = RealTime(duplex, room)
    spoke = False
    interrupted: Interrupted | None = None
    now = 0.0
    clock.start()
    for event in duplex.events():
        now = time.perf_counter()
        if isinstance(event, AudioChunk) and not spoke:
            spoke = True
            room.say(clip(_INTERRUPTION).samples, _INTERRUPT_AFTER_SECONDS + _LATER_SECONDS * run)
        if isinstance(event, Interrupted):
            interrupted = event
            break
        if now > clock.began + room.speech_end + LONGEST_WAIT_SECONDS or (
            spoke and room.silent and not duplex.answering
        ):
            break
    clock.end()
    decided, stopped = sink.decided, sink.stopped
    if interrupted is None or decided is None or stopped is None:
        return Interruption(None, None, None, None, False, 0, None, sink.played / sink.rate)
    computing = [end for begin, end in steps.times if begin < decided < end]
    return Interruption(
        onset_to_decision=decided - clock.began - room.speech_begin,
        decision_to_silence=stopped - decided + FRAME_SECONDS,
        decision_to_stop=computing[0] - decided if computing else 0.0,
        decision_to_event=now - decided,
        generating=not steps.complete,
        events_after=sum(begin > decided for begin, _ in steps.times),
        heard=interrupted.text,
        played=interrupted.seconds,
    )
