"""The picture of the waits: when the first text and the first sound came, in every run."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from omni_cli.plots.svg import document, marks

_WIDTH, _LEFT, _RIGHT = 1200, 190, 1170
_TITLE_Y, _TOP, _ROW, _FOOT = 30, 60, 52, 40
_DOT, _SHIFT = 5, 9
_CARD, _INK, _FAINT = "#0f1220", "#f4f4f8", "#a3a9bf"
# What came, the key of its time in a run, its colour.
_DOTS = (("first text", "first_text", "#72b7f2"), ("first sound", "first_sound", "#ffb35c"))


def wait_svg(title: str, questions: Sequence[tuple[float, Sequence[dict[str, Any]]]]) -> str:
    """Draws one row for each length of a question, with a dot for each run.

    Args:
        title: of the picture.
        questions: lengths (s) and their runs, as `live_latency.Wait` has them.
    """
    times = [run[key] for _, runs in questions for run in runs for _, key, _ in _DOTS if run[key] is not None]
    longest = 1.05 * max(times, default=1.0)
    height = _TOP + _ROW * len(questions) + _FOOT

    def x(time: float) -> float:
        return _LEFT + time / longest * (_RIGHT - _LEFT)

    parts = [
        f'<rect width="{_WIDTH}" height="{height}" rx="14" fill="{_CARD}"/>',
        f'<text x="16" y="{_TITLE_Y}" font-size="18" fill="{_INK}">{escape(title)}</text>',
    ]
    for number, (name, _, colour) in enumerate(_DOTS):
        left = _RIGHT - 120 * (len(_DOTS) - number) + 20
        parts.append(f'<circle cx="{left}" cy="{_TITLE_Y - 5}" r="{_DOT}" fill="{colour}"/>')
        parts.append(f'<text x="{left + 10}" y="{_TITLE_Y}" fill="{_FAINT}">{name}</text>')
    bottom = height - _FOOT
    parts += [
        f'<line x1="{x(mark):.1f}" y1="{_TOP}" x2="{x(mark):.1f}" y2="{bottom}" stroke="{_INK}" opacity="0.12"/>'
        f'<text x="{x(mark):.1f}" y="{bottom + 22}" text-anchor="middle" fill="{_FAINT}">{mark:g} s</text>'
        for mark in marks(0.0, longest)
    ]
    for row, (seconds, runs) in enumerate(questions):
        middle = _TOP + _ROW * (row + 0.5)
        label = f"a question of {seconds:g} s"
        parts.append(f'<text x="{_LEFT - 16}" y="{middle + 5}" text-anchor="end" fill="{_FAINT}">{label}</text>')
        parts += [
            f'<circle cx="{x(run[key]):.1f}" cy="{middle + _SHIFT * (2 * kind - 1):.1f}" r="{_DOT}" fill="{colour}"'
            ' opacity="0.7"/>'
            for kind, (_, key, colour) in enumerate(_DOTS)
            for run in runs
            if run[key] is not None
        ]
    return document(_WIDTH, height, parts, font="system-ui, sans-serif", size=14)
