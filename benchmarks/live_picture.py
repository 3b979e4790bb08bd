"""The picture of a recorded session: both sides over one time axis, and what was computed when."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from live_speech import Samples
from live_turns import Turn

from omni_cli.plots.svg import document, marks

_WIDTH, _HEIGHT = 1200, 350
_LEFT, _RIGHT = 96, 1184
_TITLE_Y = 30
# Words, waveform: of the user, then of the reply; then bars of computing.
_USER_TEXT, _USER, _REPLY, _REPLY_TEXT, _COMPUTED = 60, 126, 210, 260, 300
_HALF, _BAR, _LINE = 36, 12, 18
_LABEL_Y = 340
# Width of a letter, at most.
_LETTER = 7.0
_CARD, _INK, _FAINT = "#0f1220", "#f4f4f8", "#a3a9bf"
_USER_COLOUR, _REPLY_COLOUR, _STOP_COLOUR, _COMPUTED_COLOUR = "#72b7f2", "#ffb35c", "#ff5d6c", "#54c48a"
_QUIET_AMPLITUDE = 5e-4
# Bars closer than this are one.
_JOINED_SECONDS = 0.02


def session_svg(
    sides: tuple[Samples, Samples], rate: int, turns: Sequence[Turn], computed: Sequence[tuple[float, float]]
) -> str:
    """Draws a session.

    Args:
        sides: what the user said and what was played, float32 [n] each.
        rate: samples per second.
        turns: what was said.
        computed: begin and end of what was computed (s).
    """
    seconds = sides[0].size / rate

    def x(time: float) -> float:
        return _LEFT + time / seconds * (_RIGHT - _LEFT)

    parts = [
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="14" fill="{_CARD}"/>',
        f'<text x="16" y="{_TITLE_Y}" font-size="18" fill="{_INK}">A recorded conversation with omni-nano</text>',
    ]
    parts += [
        f'<line x1="{x(mark):.1f}" y1="{_USER - _HALF}" x2="{x(mark):.1f}" y2="{_COMPUTED + _BAR}"'
        f' stroke="{_INK}" opacity="0.12"/>'
        f'<text x="{x(mark):.1f}" y="{_LABEL_Y}" text-anchor="middle" fill="{_FAINT}">{mark:g} s</text>'
        for mark in marks(0.0, seconds)
    ]
    for name, y in (("user", _USER), ("reply", _REPLY), ("computing", _COMPUTED + _BAR / 2)):
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 5}" text-anchor="end" fill="{_FAINT}">{name}</text>')
    parts.append(f'<path d="{_outline(sides[0], x(0), x(seconds), _USER)}" fill="{_USER_COLOUR}"/>')
    parts.append(f'<path d="{_outline(sides[1], x(0), x(seconds), _REPLY)}" fill="{_REPLY_COLOUR}"/>')
    for begin, end in _joined(computed):
        parts.append(
            f'<rect x="{x(begin):.1f}" y="{_COMPUTED}" width="{max(x(end) - x(begin), 0.5):.1f}" height="{_BAR}"'
            f' fill="{_COMPUTED_COLOUR}"/>'
        )
    for number, turn in enumerate(turns):
        parts += _turn(number, turn, x(turn.began), x(turn.ended), x(turn.first_sound or 0), x(turn.interrupted or 0))
    return document(_WIDTH, _HEIGHT, parts, font="system-ui, sans-serif", size=14)


def _turn(number: int, turn: Turn, began: float, ended: float, first_sound: float, interrupted: float) -> list[str]:
    """What was said in a turn and how long the reply took; arguments: places of its times."""
    # Turns that follow each other closely share no line.
    parts = [_words(began, _USER_TEXT + _LINE * (number % 2), turn.words, _USER_COLOUR)]
    if turn.wait is None:
        return parts
    middle = (_USER + _REPLY) / 2
    parts += [
        f'<path d="M{ended:.1f} {middle}H{first_sound:.1f}" stroke="{_INK}" stroke-dasharray="2 3"/>',
        f'<text x="{(ended + first_sound) / 2:.1f}" y="{middle - 5}" text-anchor="middle" font-size="12"'
        f' fill="{_INK}">{turn.wait:.2f} s</text>',
        _words(first_sound, _REPLY_TEXT + _LINE * (number % 2), turn.reply.strip(), _REPLY_COLOUR),
    ]
    if turn.interrupted is not None:
        parts += [
            f'<line x1="{interrupted:.1f}" y1="{_USER - _HALF}" x2="{interrupted:.1f}" y2="{_REPLY + _HALF}"'
            f' stroke="{_STOP_COLOUR}" stroke-width="2"/>',
            f'<text x="{interrupted + 5:.1f}" y="{_REPLY - _HALF + 10}" font-size="12"'
            f' fill="{_STOP_COLOUR}">interrupted</text>',
        ]
    return parts


def _words(x: float, y: float, text: str, colour: str) -> str:
    """Text that begins at a place, or further left where the picture ends."""
    x = max(_LEFT, min(x, _RIGHT - _LETTER * len(text)))
    return f'<text x="{x:.1f}" y="{y}" fill="{colour}">{escape(text)}</text>'


def _outline(samples: Samples, left: float, right: float, middle: float) -> str:
    """The waveform's path: the highest sample of each column from left to right, the lowest ones back."""
    columns = min(samples.size, round(right - left))
    edges = np.linspace(0, samples.size, columns, endpoint=False).astype(np.int64)
    scale = _HALF / max(float(np.abs(samples).max()), _QUIET_AMPLITUDE)
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    top = middle - np.maximum.reduceat(samples, edges) * scale - 0.5
    bottom = middle - np.minimum.reduceat(samples, edges) * scale + 0.5
    points = [*zip(x, top, strict=True), *zip(x[::-1], bottom[::-1], strict=True)]
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in points) + "Z"


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if joined and begin - joined[-1][1] < _JOINED_SECONDS:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined
