"""Sounds and pictures that calibration makes: no files, no licence, the same everywhere.

They are no recordings. They bring the marks, positions and embeds of media into the calibration, and sounds and
pictures with the structure of speech, music, drawings, charts and textures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omni_edge.events import AudioClip, ImageFrame

Samples = NDArray[np.float32]
Pixels = NDArray[np.uint8]

RATE = 16_000
_SECONDS = 4.0
_SIDE = 336
# The first three formants of five vowels, Hz.
_VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
_FORMANT_WIDTHS = (80.0, 100.0, 140.0)


def speech_like(seed: int) -> AudioClip:
    """Syllables of vowels behind bursts of noise, under a falling pitch."""
    random = np.random.default_rng(seed)
    samples = np.zeros(int(_SECONDS * RATE), np.float32)
    time, pitch = 0.1, random.uniform(110, 220)
    while time < _SECONDS - 0.5:
        length = random.uniform(0.12, 0.3)
        burst = _noise(random, 0.05)
        _add(samples, time, 0.1 * burst)
        vowel = _VOWELS[random.integers(len(_VOWELS))]
        for pulse in np.arange(time + 0.04, time + length, 1 / pitch):
            _add(samples, pulse, _pulse(vowel))
        pitch *= random.uniform(0.9, 1.06)
        time += length + random.choice([0.02, 0.05, 0.25])
    return AudioClip(_levelled(samples), RATE)


def music_like(seed: int) -> AudioClip:
    """Chords of decaying harmonics over soft noise."""
    random = np.random.default_rng(seed)
    samples = 0.02 * _noise(random, _SECONDS)
    for begin in np.arange(0.0, _SECONDS - 0.5, 0.5):
        for step in random.choice([0, 3, 4, 7, 9, 12], 3, replace=False):
            _add(samples, begin, _note(220 * 2 ** (step / 12)))
    return AudioClip(_levelled(samples), RATE)


def _pulse(formants: tuple[int, ...]) -> Samples:
    """What one opening of the vocal cords leaves: a decaying oscillation for each formant."""
    times = np.arange(int(0.03 * RATE)) / RATE
    decays = np.exp(-np.pi * np.outer(_FORMANT_WIDTHS, times))
    waves = np.sin(2 * np.pi * np.outer(formants, times))
    return np.asarray((decays * waves).sum(axis=0), np.float32)


def _note(frequency: float) -> Samples:
    times = np.arange(int(0.9 * RATE)) / RATE
    harmonics = np.arange(1, 9)
    waves = np.sin(2 * np.pi * frequency * np.outer(harmonics, times)) / harmonics[:, None]
    return np.asarray((waves * np.exp(-4 * np.outer(harmonics**0.5, times))).sum(axis=0), np.float32)


def _noise(random: np.random.Generator, seconds: float) -> Samples:
    return random.standard_normal(int(seconds * RATE), np.float32)


def _add(samples: Samples, time: float, piece: Samples) -> None:
    start = int(time * RATE)
    end = min(len(samples), start + len(piece))
    samples[start:end] += piece[: end - start]


def _levelled(samples: Samples) -> Samples:
    return np.asarray(0.6 * samples / np.abs(samples).max(), np.float32)


def drawing(seed: int) -> ImageFrame:
    """Sky and ground, a sun, houses, trees."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    pixels = np.empty((_SIDE, _SIDE, 3))
    pixels[:] = np.stack([120 + 100 * rows, 170 + 60 * rows, 235 - 20 * rows], axis=-1)
    pixels[rows > 0.65] = (70, 140, 60)
    y, x = random.uniform(0.1, 0.3, 2)
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < 0.007] = (250, 220, 90)
    for left in (0.15, 0.45, 0.7):
        width, top = random.uniform(0.12, 0.2), random.uniform(0.4, 0.55)
        inside = (columns > left) & (columns < left + width)
        pixels[inside & (rows > top) & (rows < 0.75)] = random.uniform(90, 230, 3)
        roof = rows > top - 0.12 + 1.2 * np.abs(columns - left - width / 2)
        pixels[roof & (rows < top) & inside] = (150, 50, 40)
        pixels[(np.abs(columns - left - width / 2) < 0.02) & (rows > 0.65) & (rows < 0.75)] = (60, 40, 30)
    return ImageFrame(_grained(random, pixels))


def chart(seed: int) -> ImageFrame:
    """Bars on white with axes, and lines of marks in the place of text."""
    random = np.random.default_rng(seed)
    pixels = np.full((_SIDE, _SIDE, 3), 250.0)
    pixels[40:300, 40:42] = pixels[298:300, 40:320] = 20
    for index, height in enumerate(random.integers(30, 240, 6)):
        pixels[298 - height : 298, 60 + 42 * index : 88 + 42 * index] = random.uniform(40, 220, 3)
    for line in (10, 22, 308, 320):
        marks = random.random(_SIDE // 2) < 0.6
        for row in range(line, line + 8):
            pixels[row, ::2][marks & (random.random(_SIDE // 2) < 0.7)] = 30
    return ImageFrame(_grained(random, pixels))


def texture(seed: int) -> ImageFrame:
    """Smooth noise at several scales, in two colours."""
    random = np.random.default_rng(seed)
    field = np.zeros((_SIDE, _SIDE))
    for cells in (4, 12, 42, 168):
        coarse = random.standard_normal((cells, cells))
        field += np.repeat(np.repeat(coarse, _SIDE // cells, 0), _SIDE // cells, 1) / cells**0.5
    field = (field - field.min()) / np.ptp(field)
    dark, light = random.uniform(0, 120, 3), random.uniform(130, 255, 3)
    return ImageFrame(_grained(random, dark + field[..., None] * (light - dark)))


def _grained(random: np.random.Generator, pixels: NDArray[np.float64]) -> Pixels:
    """With the noise that every camera adds."""
    return np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
