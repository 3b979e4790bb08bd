"""The timeline of a reply: spans of its stages, and the playback of its chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

# Runs of one stage closer than this are one bar: a reply has thousands of them, a picture some thousand pixels.
_JOINED_SECONDS = 0.002


@dataclass(frozen=True)
class Span:
    """A stage at work; seconds from the end of the user's input."""

    stage: str
    begin: float
    end: float


@dataclass(frozen=True)
class Arrival:
    """A chunk of speech: when it came, and its length; seconds."""

    at: float
    length: float


@dataclass(frozen=True)
class Playback:
    """The playback of a reply in real time, each chunk as soon as possible; seconds.

    Attributes:
        longest_gap: between the arrivals of two chunks.
        underruns: times that the sound ran out before the last chunk.
        silence: length of all underruns.
        lead: the delay of the first chunk that avoids every underrun.
    """

    longest_gap: float
    underruns: int
    silence: float
    lead: float


def play(arrivals: Sequence[Arrival]) -> Playback:
    """The playback of chunks in real time from the first one on."""
    gaps = [after.at - before.at for before, after in pairwise(arrivals)]
    underruns, silence, lead, played = 0, 0.0, 0.0, 0.0
    for index, chunk in enumerate(arrivals):
        if index:
            due = arrivals[0].at + played + silence
            underruns += chunk.at > due
            silence += max(0.0, chunk.at - due)
            lead = max(lead, chunk.at - arrivals[0].at - played)
        played += chunk.length
    return Playback(max(gaps, default=0.0), underruns, silence, lead)


def joined(spans: Iterable[Span]) -> list[Span]:
    """The spans in order of their begin; spans of one stage that touch, or nearly, are joined."""
    done: list[Span] = []
    last: dict[str, int] = {}
    for span in sorted(spans, key=lambda item: item.begin):
        index = last.get(span.stage)
        if index is not None and span.begin - done[index].end < _JOINED_SECONDS:
            done[index] = Span(span.stage, done[index].begin, max(span.end, done[index].end))
        else:
            last[span.stage] = len(done)
            done.append(span)
    return done
