"""A picture of how far predictions are from float32: the KL divergence of each token, sorted, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from omni_cli.plots.svg import document, marks

_WIDTH, _HEIGHT = 860, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 840, 50, 400
_LINE_HEIGHT = 18
# Rounding in float32 alone makes divergences below 1e-6 nats; none is far above 10.
_LOWEST, _HIGHEST = -6, 1
_POINTS = 200
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b", "#888888")


@dataclass(frozen=True)
class Curve:
    """One line of the picture.

    Attributes:
        name: stands in the legend.
        divergences: of each token, at least one (nats).
    """

    name: str
    divergences: Sequence[float]


def divergence_svg(curves: Sequence[Curve], title: str) -> str:
    """Draws, for each share of the tokens, the divergence that so many tokens stay below.

    Args:
        curves: a line each, with the mean in the legend.
        title: stands above.
    """
    parts = [
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="28" font-size="15">{escape(title)}</text>',
        f'<text x="{(_LEFT + _RIGHT) / 2:g}" y="{_HEIGHT - 16}" text-anchor="middle">share of the tokens</text>',
    ]
    for share in marks(0, 100):
        x = _LEFT + share / 100 * (_RIGHT - _LEFT)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_BOTTOM}" stroke="#e4e4e4"/>'
            f'<text x="{x:.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{share:g} %</text>'
        )
    for exponent in range(_LOWEST, _HIGHEST + 1):
        y = _height(10.0**exponent)
        parts.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_RIGHT}" y2="{y:.1f}" stroke="#e4e4e4"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{exponent}</text>'
        )
    parts.append(f'<text x="{_LEFT - 8}" y="{_TOP - 10}" text-anchor="end">nats</text>')
    shares = np.linspace(0, 1, _POINTS)
    for number, curve in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        values = np.quantile(np.asarray(curve.divergences, np.float64), shares)
        points = " ".join(
            f"{_LEFT + share * (_RIGHT - _LEFT):.1f},{_height(value):.1f}"
            for share, value in zip(shares.tolist(), values.tolist(), strict=True)
        )
        y = _TOP + _LINE_HEIGHT * (number + 1)
        mean = float(np.mean(curve.divergences))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{_LEFT + 12}" y="{y}" fill="{colour}">{escape(curve.name)}: mean {mean:.2g}</text>'
        )
    return document(_WIDTH, _HEIGHT, parts)


def _height(value: float) -> float:
    """Where a divergence lies in the picture (pixels from its top)."""
    exponent = float(np.clip(np.log10(max(value, 1e-300)), _LOWEST, _HIGHEST))
    return _BOTTOM - (exponent - _LOWEST) / (_HIGHEST - _LOWEST) * (_BOTTOM - _TOP)
