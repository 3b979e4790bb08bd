"""Which stage ran when, and what a loudspeaker makes of it: the picture of a reply's timeline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from omni_cli.plots.svg import document, marks
from omni_edge.bench.timeline import Arrival, Span

_WIDTH, _ROW, _LABEL, _MARGIN = 1200, 26, 150, 16
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b")


def timeline_svg(spans: Sequence[Span], arrivals: Sequence[Arrival], title: str) -> str:
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
