"""A picture of speech: what was said, its waveform and its mel spectrogram over one time axis, as SVG.

It stands on a dark card of its own, so that it looks the same on a light page and on a dark one. Words are text in the
reader's fonts, whatever their script. They stand above, not below the time axis: nothing in the model says when in the
speech a word falls (the Talker hears one text token each 20 ms, far ahead of what it speaks).
"""

from __future__ import annotations

import unicodedata
from html import escape
from math import ceil

import numpy as np
from numpy.typing import NDArray

from omni_cli.plots.svg import document, marks, pixels_at, png
from omni_edge.audio.mel import LogMel, LogMelState, hz_to_mel
from omni_edge.bundle.manifest import AudioSection

_WIDTH, _HEIGHT = 960, 420
_LEFT, _RIGHT = 66, 936
_TITLE_Y, _SUBTITLE_Y = 42, 66
_WAVE_TOP, _WAVE_BOTTOM = 84, 172
_MEL_TOP, _MEL_BOTTOM = 184, 380
_LABEL_Y = 402
_CARD, _INK, _FAINT, _WAVE = "#0f1220", "#f4f4f8", "#a3a9bf", "#ffb35c"
# From silence (the card) to the loudest: positions in [0, 1] and their colours, RGB.
_COLOURS = (
    (0.0, (15, 18, 32)),
    (0.2, (44, 27, 92)),
    (0.44, (136, 34, 116)),
    (0.65, (222, 73, 86)),
    (0.84, (255, 163, 82)),
    (1.0, (255, 244, 200)),
)
_SHADES = 64
_RANGE_DECADES = 6.5
# Whatever is quieter is not made visible: an amplitude, and the logarithm of the mel power of such a tone. The front
# end's floor, -10, lies a whole range below it: silence has the card's colour.
_QUIET_AMPLITUDE, _QUIET_PEAK = 5e-4, -3.5
_TITLE_CELLS = 76
# Long enough to part the harmonics of a voice, short enough to part its syllables.
_WINDOW_SECONDS = 0.04
_SHORTEST_HOP_SECONDS = 0.0025
_MELS = 96
_COLUMNS = 600
_MARKED_HZ = (250, 500, 1000, 2000, 4000, 8000)


def speech_svg(samples: NDArray[np.float32], rate: int, text: str, about: str = "") -> str:
    """Draws speech.

    Args:
        samples: float32 [n] in [-1, 1], mono; n is at least 1. Both views are scaled to their peaks.
        rate: samples per second.
        text: what is said; one line of it is shown.
        about: stands below the text, before the length and the rate: the voice, for example.
    """
    seconds = samples.size / rate
    about = ", ".join([*([about] if about else []), f"{seconds:.2f} s", f"{rate / 1000:g} kHz"])
    parts = [
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="14" fill="{_CARD}"/>',
        f'<text x="{_LEFT}" y="{_TITLE_Y}" font-size="22" fill="{_INK}">{escape(_line(text))}</text>',
        f'<text x="{_LEFT}" y="{_SUBTITLE_Y}" fill="{_FAINT}">{escape(about)}</text>',
        pixels_at(
            _LEFT, _MEL_TOP, _RIGHT - _LEFT, _MEL_BOTTOM - _MEL_TOP, png(_shades(log_mel(samples, rate)), _palette())
        ),
        *_time_axis(seconds),
        *_frequency_axis(rate),
        f'<path d="{_outline(samples)}" fill="{_WAVE}"/>',
    ]
    return document(_WIDTH, _HEIGHT, parts, font="system-ui, sans-serif", size=14)


def log_mel(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """log10 of the power, float32 [mels, columns], low frequencies first; columns are evenly spaced over the sound."""
    window = 2 * round(_WINDOW_SECONDS * rate / 2)
    hop = max(ceil(samples.size / _COLUMNS), round(_SHORTEST_HOP_SECONDS * rate), 1)
    frames = LogMel(AudioSection(rate, window, hop, _MELS, 1)).step(samples, LogMelState(), end=True)
    # A clip of one sample makes one frame.
    assert frames is not None
    return frames


def _shades(log_power: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rows of the palette, uint8 [mels, columns], high frequencies first."""
    peak = max(float(log_power.max()), _QUIET_PEAK)
    level = np.clip((log_power - peak) / _RANGE_DECADES + 1.0, 0.0, 1.0)
    rows: NDArray[np.uint8] = np.rint(level[::-1] * (_SHADES - 1)).astype(np.uint8)
    return rows


def _palette() -> NDArray[np.uint8]:
    """RGB, uint8 [_SHADES, 3]."""
    at, colours = zip(*_COLOURS, strict=True)
    shades = np.linspace(0.0, 1.0, _SHADES)
    return np.stack([np.interp(shades, at, channel) for channel in zip(*colours, strict=True)], 1).astype(np.uint8)


def _outline(samples: NDArray[np.float32]) -> str:
    """The waveform's path: the highest sample of each column from left to right, the lowest ones back."""
    columns = min(samples.size, _RIGHT - _LEFT)
    edges = np.linspace(0, samples.size, columns, endpoint=False).astype(np.int64)
    scale = (_WAVE_BOTTOM - _WAVE_TOP) / 2 / max(float(np.abs(samples).max()), _QUIET_AMPLITUDE)
    middle = (_WAVE_TOP + _WAVE_BOTTOM) / 2
    x = _LEFT + (np.arange(columns) + 0.5) * (_RIGHT - _LEFT) / columns
    # Half a pixel to each side: silence is a line.
    top = middle - np.maximum.reduceat(samples, edges) * scale - 0.5
    bottom = middle - np.minimum.reduceat(samples, edges) * scale + 0.5
    points = [*zip(x, top, strict=True), *zip(x[::-1], bottom[::-1], strict=True)]
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in points) + "Z"


def _time_axis(seconds: float) -> list[str]:
    parts = []
    for mark in marks(0.0, seconds):
        x = _LEFT + mark / seconds * (_RIGHT - _LEFT)
        parts.append(
            f'<line x1="{x:.1f}" y1="{_WAVE_TOP}" x2="{x:.1f}" y2="{_MEL_BOTTOM}" stroke="{_INK}" opacity="0.12"/>'
            f'<text x="{x:.1f}" y="{_LABEL_Y}" text-anchor="middle" fill="{_FAINT}">{mark:g} s</text>'
        )
    return parts


def _frequency_axis(rate: int) -> list[str]:
    parts = []
    nyquist = rate / 2
    shown = [hertz for hertz in _MARKED_HZ if hertz < nyquist]
    for hertz in shown:
        # The centre of mel filter k stands in the middle of row k.
        row = hz_to_mel(hertz) / hz_to_mel(nyquist) * (_MELS + 1) - 0.5
        y = _MEL_BOTTOM - row / _MELS * (_MEL_BOTTOM - _MEL_TOP)
        parts.append(
            f'<line x1="{_LEFT - 5}" y1="{y:.1f}" x2="{_LEFT}" y2="{y:.1f}" stroke="{_FAINT}"/>'
            f'<text x="{_LEFT - 9}" y="{y + 4:.1f}" font-size="12" text-anchor="end" fill="{_FAINT}">'
            f"{hertz / 1000:g}{' kHz' if hertz == shown[-1] else ''}</text>"
        )
    return parts


def _line(text: str) -> str:
    """`text` on one line, cut where it would leave the picture; a wide character counts as two."""
    words = " ".join(text.split())
    cells = np.cumsum([2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in words])
    if not cells.size or cells[-1] <= _TITLE_CELLS:
        return words
    return words[: int(np.searchsorted(cells, _TITLE_CELLS - 1, side="right"))].rstrip() + "…"
