"""A whole reply at the public API: a spoken question in, text and speech out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from omni_edge.backend.machine import Memory, memory
from omni_edge.bench.figures import Figure, Subject, timed
from omni_edge.bench.stages import noise
from omni_edge.bench.timeline import Arrival, Playback, Span, joined, play
from omni_edge.conversation.session import Session
from omni_edge.events import AudioChunk, AudioClip, Metrics, PcmBlock, TurnDone
from omni_edge.vocoder.schedule import ChunkSchedule

_SEED = 0
_STAGES = ("prefill", "decode", "talker", "dit", "bigvgan")
# A microphone hands over pieces of this length.
_PIECE_SECONDS = 0.1


@dataclass(frozen=True)
class Whole:
    """Figures of all replies, and the timeline of the last one to a question that was known whole."""

    figures: tuple[Figure, ...] = ()
    spans: tuple[Span, ...] = ()
    arrivals: tuple[Arrival, ...] = ()


@dataclass(frozen=True)
class _Reply:
    """One reply; times in seconds from the end of the question.

    Attributes:
        ttft: to the first text token.
        ttfa: to the first sound; None without speech.
        total: to the end of the reply.
        after: to the first sound if each stage had waited for the end of the one before it.
        memory: of the process, before the whole utterance was vocoded at once for `after`.
        metrics: those of the reply.
        playback: its speech in real time.
        spans: runs of graphs.
        arrivals: chunks of speech.
    """

    ttft: float
    ttfa: float | None
    total: float
    after: float
    memory: Memory
    metrics: Metrics
    playback: Playback
    spans: tuple[Span, ...]
    arrivals: tuple[Arrival, ...]


def reply(subject: Subject) -> Whole:
    """Replies to a question that comes whole, and to one that comes live, whose pieces are encoded as they come."""
    manifest, settings = subject.engine.manifest, subject.settings
    rate = manifest.audio.sample_rate
    sound = noise(settings.sound_seconds, rate)
    piece = int(_PIECE_SECONDS * rate)
    pieces = [PcmBlock(sound[start : start + piece], rate) for start in range(0, sound.size, piece)]
    pieces[-1] = PcmBlock(pieces[-1].samples, rate, end=True)

    def whole(session: Session) -> float:
        ended = time.perf_counter()
        session.push(AudioClip(sound, rate))
        return ended

    def live(session: Session) -> float:
        for block in pieces[:-1]:
            session.push(block)
        ended = time.perf_counter()
        session.push(pieces[-1])
        return ended

    first = _reply(subject, whole)
    clips = [_reply(subject, whole) for _ in range(settings.runs)]
    lives = [_reply(subject, live) for _ in range(settings.runs)]
    figures = [
        *_figures("clip", clips),
        *_figures("live", lives)[:2],
        Figure("reply", "peak resident memory", "B", (first.memory.peak,)),
        Figure("reply", "anonymous memory", "B", (first.memory.anonymous,)),
    ]
    return Whole(tuple(figures), clips[-1].spans, clips[-1].arrivals)


def _reply(subject: Subject, ask: Callable[[Session], float]) -> _Reply:
    settings = subject.settings
    session = subject.engine.session(seed=_SEED, solver=settings.solvers[-1], chunks=settings.chunks)
    subject.spans.clear()
    ended = ask(session)
    ready = time.perf_counter() - ended
    arrivals = []
    for event in session.reply(max_new_tokens=settings.reply_tokens, max_codec_tokens=settings.reply_codec_tokens):
        if isinstance(event, AudioChunk):
            arrivals.append(Arrival(time.perf_counter() - ended, event.samples.size / event.rate))
        elif isinstance(event, TurnDone):
            done = event
    metrics = done.metrics
    spans = tuple(joined(Span(span.stage, span.begin - ended, span.end - ended) for span in subject.spans))
    held = memory()
    before = ready + metrics.prefill + metrics.decode + metrics.talker
    return _Reply(
        ttft=ready + metrics.ttft,
        ttfa=arrivals[0].at if arrivals else None,
        total=ready + metrics.total,
        after=before + _vocoder_at_once(subject, done.codec_tokens) if arrivals else before,
        memory=held,
        metrics=metrics,
        playback=play(arrivals),
        spans=spans,
        arrivals=tuple(arrivals),
    )


def _vocoder_at_once(subject: Subject, codec: tuple[int, ...]) -> float:
    """Seconds for all codec tokens of a reply, in one chunk."""
    vocoder = subject.engine.model.vocoder()
    state = vocoder.state(subject.engine.voices[0], _SEED, subject.settings.solvers[-1], ChunkSchedule(chunk_blocks=()))
    return timed(lambda: vocoder.step(codec, state, end=True))


def _figures(kind: str, replies: list[_Reply]) -> list[Figure]:
    """Time to first text and to first sound, then the rest."""

    def figure(name: str, unit: str, value: Callable[[_Reply], float]) -> Figure:
        return Figure("reply", f"{kind}: {name}", unit, tuple(value(one) for one in replies))

    figures = [figure("TTFT", "s", lambda one: one.ttft)]
    if all(one.ttfa is not None for one in replies):
        figures += [
            figure("TTFA", "s", lambda one: one.ttfa or 0.0),
            figure("TTFA, stage after stage", "s", lambda one: one.after),
            figure("total", "s", lambda one: one.total),
            figure("speech", "s", lambda one: one.metrics.audio),
            figure("RTF", "RTF", lambda one: one.metrics.rtf or 0.0),
            *(
                figure(f"time in {stage}", "s", lambda one, stage=stage: getattr(one.metrics, stage))  # type: ignore[misc]
                for stage in _STAGES
            ),
            figure("longest gap", "s", lambda one: one.playback.longest_gap),
            figure("underruns", "", lambda one: one.playback.underruns),
            figure("silence of a real-time sink", "s", lambda one: one.playback.silence),
            figure("head start that avoids it", "s", lambda one: one.playback.lead),
        ]
    return figures
