"""Which stage ran when: spans of one reply, what a loudspeaker would have made of it, and both as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from omni_edge.svg import document, marks

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
    """A sink that plays each chunk as soon as it can, in real time; seconds.

    Attributes:
        longest_gap: between the arrivals of two chunks.
        underruns: times it ran dry before the last chunk.
        silence: how long it was dry altogether.
        lead: by how much playing would have had to begin later for it never to run dry.
    """

    longest_gap: float
    underruns: int
    silence: float
    lead: float


def play(arrivals: Sequence[Arrival]) -> Playback:
    """What becomes of the chunks in a sink that drains in real time from the first one on."""
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
    """The spans by begin, those of one stage that (almost) touch made one."""
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


_WIDTH, _ROW, _LABEL, _MARGIN = 1200, 26, 150, 16
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b")


def svg(spans: Sequence[Span], arrivals: Sequence[Arrival], title: str) -> str:
    """A picture, SVG: a row per stage, then the chunks' arrivals and when a sink plays them; time runs to the right."""
    stages = list(dict.fromkeys(span.stage for span in sorted(spans, key=lambda item: item.begin)))
    playing = _playing(arrivals)
    begin = min([0.0, *(span.begin for span in spans)])
    end = max([*(span.end for span in [*spans, *playing]), begin + 1e-3])
    scale = (_WIDTH - _LABEL - 2 * _MARGIN) / (end - begin)
    left = _MARGIN + _LABEL
    rows = {name: 2 * _ROW + _ROW * index for index, name in enumerate([*stages, "chunks played"])}
    height = 2 * _ROW + _ROW * (len(rows) + 1)
    parts = [
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{_MARGIN}" y="{_ROW}" font-size="15">{escape(title)}</text>',
    ]
    for mark in marks(begin, end):
        x = left + (mark - begin) * scale
        parts.append(
            f'<line x1="{x:.1f}" y1="{1.5 * _ROW:.1f}" x2="{x:.1f}" y2="{height - _ROW}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{height - _ROW / 3:.1f}" text-anchor="middle">{mark:g} s</text>'
        )
    for name, y in rows.items():
        parts.append(f'<text x="{_MARGIN}" y="{y + 0.65 * _ROW:.1f}">{escape(name)}</text>')
    colours = dict(zip(stages, _COLOURS * (1 + len(stages) // len(_COLOURS)), strict=False))
    for span in [*spans, *playing]:
        top = rows[span.stage] + 0.15 * _ROW
        parts.append(
            f'<rect x="{left + (span.begin - begin) * scale:.2f}" y="{top:.1f}"'
            f' width="{max((span.end - span.begin) * scale, 0.4):.2f}" height="{0.7 * _ROW:.1f}"'
            f' fill="{colours.get(span.stage, "#888")}"/>'
        )
    for chunk in arrivals:
        x = left + (chunk.at - begin) * scale
        parts.append(
            f'<line x1="{x:.1f}" y1="{1.5 * _ROW:.1f}" x2="{x:.1f}" y2="{height - _ROW}" stroke="#333"'
            ' stroke-dasharray="2 3"/>'
        )
    return document(_WIDTH, height, parts)


def _playing(arrivals: Sequence[Arrival]) -> list[Span]:
    """When a sink that begins with the first chunk plays each of them."""
    spans: list[Span] = []
    for chunk in arrivals:
        begin = max(chunk.at, spans[-1].end) if spans else chunk.at
        spans.append(Span("chunks played", begin, begin + chunk.length))
    return spans
