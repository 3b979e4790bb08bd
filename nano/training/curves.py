"""The training curves as one picture: small multiples, SVG, from the logs in WORK/training.

    python -m nano.training.curves --work nano-work --out nano/results/curves.svg

Losses have logarithmic axes; shares (of right replies, of wrong tokens) go from 0 to 1.
"""

from __future__ import annotations

import argparse
import ast
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10
from pathlib import Path

from nano.data.exercises import EVALUATION_SETS
from omni_cli.plots.svg import document

Points = dict[int, float]
"""Step -> value."""

# Columns that are shares, not losses; columns that are not drawn.
_SHARES = {*EVALUATION_SETS, "unseen_combination", "unseen_voice", "right", "held out right"}
_LEFT_OUT = {"norm", "seconds"}
# The columns of the Talker's log, which has no header.
_TALKER = ("loss", "right", "seconds")
_MEANING = {"thinker": "replies right", "audio_encoder": "tokens wrongly recognized", "talker": "codec tokens right"}
_ORDER = ("thinker", "audio_encoder", "talker", "codec", "dit", "bigvgan")


@dataclass
class Panel:
    """One small picture: series by name; with `shares` the axis goes from 0 to 1."""

    title: str
    shares: bool
    series: dict[str, Points] = field(default_factory=dict)


def panels(work: Path) -> list[Panel]:
    """All logs: for each stage its losses, then its shares.

    Raises:
        FileNotFoundError: there is no log.
    """
    files = {file.stem: file for file in (work / "training").glob("*.csv")}
    if not files:
        raise FileNotFoundError(f"{work / 'training'} has no logs: train something first")
    found = []
    for name in [*(name for name in _ORDER if name in files), *sorted(set(files) - set(_ORDER))]:
        curves = read(files[name])
        for shares in (False, True):
            series = {label: points for label, points in curves.items() if (label in _SHARES) == shares}
            if series:
                kind = f"share of {_MEANING.get(name, 'right')}" if shares else "losses"
                found.append(Panel(f"{name}: {kind}", shares, series))
    return found


def read(file: Path) -> dict[str, Points]:
    """The series of one log. Where a run continued from an earlier step, the later rows before it are dropped."""
    curves: dict[str, Points] = {}
    for step, values in _rows(file):
        for name, value in values.items():
            if name not in _LEFT_OUT:
                points = curves.setdefault(name, {})
                for later in [other for other in points if other >= step]:
                    del points[later]
                points[step] = value
    return curves


def _rows(file: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, values): rows with a header, rows with one dictionary, or the Talker's."""
    with file.open(newline="") as lines:
        names: Sequence[str] = _TALKER
        for row in csv.reader(lines):
            if row[0] == "step":
                names = row[1:]
            elif row[1].startswith("{"):
                yield int(row[0]), ast.literal_eval(row[1])
            else:
                values = dict(zip(names, map(float, row[1 : 1 + len(names)]), strict=False))
                for text in row[1 + len(names) :]:
                    *_, loss, right = text.split()
                    values |= {"held out loss": float(loss), "held out right": float(right)}
                yield int(row[0]), values


# -- drawing -----------------------------------------------------------------------------------------------------

_COLUMNS, _WIDTH, _HEIGHT = 2, 600, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 220, 30, 30
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#b8960c")
_LINE = 16
_MANTISSAS = (1, 2, 5)


def svg(pictures: Sequence[Panel]) -> str:
    """An SVG document of the panels, two in a row."""
    rows = ceil(len(pictures) / _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT
    parts = [f'<rect width="{width}" height="{height}" fill="white"/>']
    for index, panel in enumerate(pictures):
        x, y = index % _COLUMNS * _WIDTH, index // _COLUMNS * _HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel), "</g>"]
    return document(width, height, parts, size=12)


def _panel(panel: Panel) -> Iterator[str]:
    values = [value for points in panel.series.values() for value in points.values()]
    last = max(step for points in panel.series.values() for step in points)
    low, high = (0.0, 1.0) if panel.shares else _decades(values)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if panel.shares else _ticks(low, high)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(step: float) -> float:
        return _LEFT + (right - _LEFT) * step / last

    def up(value: float) -> float:
        share = value if panel.shares else (log10(max(value, low)) - log10(low)) / (log10(high) - log10(low))
        return bottom - (bottom - _TOP) * share

    yield f'<text x="{_LEFT}" y="18" font-size="14">{escape(panel.title)}</text>'
    for tick in ticks:
        yield f'<line x1="{_LEFT}" y1="{up(tick):.1f}" x2="{right}" y2="{up(tick):.1f}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
    for step in (0, last // 2, last):
        yield f'<text x="{across(step):.1f}" y="{bottom + 18}" text-anchor="middle">{step}</text>'
    for (name, points), colour, line in _coloured(panel.series):
        path = " ".join(f"{across(step):.1f},{up(value):.1f}" for step, value in points.items())
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        step, final = list(points.items())[-1]
        yield f'<circle cx="{across(step):.1f}" cy="{up(final):.1f}" r="2.5" fill="{colour}"/>'
        place = f'x="{right + 10}" y="{_TOP + 8 + line * _LINE}"'
        yield f'<text {place} fill="{colour}">{escape(name)} {final:.3g}</text>'


def _coloured(series: Mapping[str, Points]) -> Iterator[tuple[tuple[str, Points], str, int]]:
    for line, item in enumerate(series.items()):
        yield item, _COLOURS[line % len(_COLOURS)], line


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Bounds of a logarithmic axis: 1, 2 or 5 times a power of ten around all positive values."""
    positive = [value for value in values if value > 0] or [1.0]
    steps = [
        m * 10.0**e for e in range(floor(log10(min(positive))), ceil(log10(max(positive))) + 1) for m in _MANTISSAS
    ]
    low = max((step for step in steps if step <= min(positive)), default=steps[0])
    high = min((step for step in steps if step >= max(positive)), default=steps[-1])
    return (low, high) if low < high else (low / 2, high * 2)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade between; the powers of ten alone where `high` is 200 times `low` or more."""
    exponents = range(floor(log10(low)), ceil(log10(high)) + 1)
    mantissas = _MANTISSAS if high / low < 200 else _MANTISSAS[:1]
    slack = 1 + 1e-9
    return [m * 10.0**e for e in exponents for m in mantissas if low / slack <= m * 10.0**e <= high * slack]


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(svg(panels(arguments.work)), "utf-8")


if __name__ == "__main__":
    main()
