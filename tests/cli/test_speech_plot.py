"""The picture of speech: sound where the sound is, at the height that the axis says."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from omni_cli.plots.speech import speech_svg
from omni_cli.plots.svg import marks, png

SVG = "{http://www.w3.org/2000/svg}"
RATE = 24_000


def tone(hertz: float, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz / RATE * np.arange(int(seconds * RATE)))).astype(np.float32)


class Drawing:
    """What a picture shows: its texts, its spectrogram and its waveform."""

    def __init__(self, text: str) -> None:
        self.root = ElementTree.fromstring(text)
        self.texts = {item.text: item for item in self.root.iter(f"{SVG}text")}
        (image,) = self.root.iter(f"{SVG}image")
        self.left, self.top, self.width, self.height = (
            float(image.get(name, "")) for name in ("x", "y", "width", "height")
        )
        data = base64.b64decode(image.get("href", "").partition("base64,")[2])
        # Brightness [rows, columns]; the card's own colour is the darkest.
        self.spectrogram = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).sum(axis=2)
        (path,) = self.root.iter(f"{SVG}path")
        numbers = [float(number) for number in re.findall(r"[\d.]+", path.get("d", ""))]
        points = np.array(numbers).reshape(-1, 2)
        half = len(points) // 2
        # x, and how far the wave is open there.
        self.x, self.open = points[:half, 0], points[half:][::-1, 1] - points[:half, 1]

    def level(self, label: str) -> float:
        """The height in the spectrogram's rows at which a frequency's label stands."""
        y = float(self.texts[label].get("y", "")) - 4
        return (y - self.top) / self.height * len(self.spectrogram)


@pytest.mark.parametrize(("hertz", "label"), [(500, "0.5"), (1000, "1"), (4000, "4"), (8000, "8 kHz")])
def test_a_tone_between_two_silences_is_where_it_belongs(hertz: float, label: str) -> None:
    silence = np.zeros(RATE, np.float32)
    drawing = Drawing(speech_svg(np.concatenate([silence, tone(hertz, 1.0), silence]), RATE, "beep"))
    columns = drawing.spectrogram.shape[1]
    seconds = (np.arange(columns) + 0.5) / columns * 3
    energy = (drawing.spectrogram - drawing.spectrogram.min()).sum(axis=0)
    # The window is 40 ms long: that far the tone shines into the silence.
    assert not energy[(seconds < 0.95) | (seconds > 2.05)].any()
    inside = (seconds > 1.05) & (seconds < 1.95)
    assert energy[inside].min() > 0
    brightest = drawing.spectrogram[:, inside].mean(axis=1).argmax()
    assert abs(brightest + 0.5 - drawing.level(label)) <= 1
    at = (drawing.x - drawing.left) / drawing.width * 3
    assert drawing.open[(at < 0.99) | (at > 2.01)].max() == pytest.approx(1.0, abs=0.11)
    assert drawing.open[(at > 1.01) & (at < 1.99)].min() > 50


def test_the_louder_half_is_the_brighter_one() -> None:
    quiet, loud = 0.1 * tone(700, 1.0), tone(700, 1.0)
    drawing = Drawing(speech_svg(np.concatenate([quiet, loud]), RATE, ""))
    halves = np.array_split(drawing.spectrogram.max(axis=0), 2)
    assert np.median(halves[0]) < np.median(halves[1])
    opened = np.array_split(drawing.open, 2)
    assert np.median(opened[0]) == pytest.approx(0.1 * np.median(opened[1]), rel=0.2)


def test_words_and_facts_are_text() -> None:
    drawing = Drawing(speech_svg(tone(300, 1.5), RATE, "It is <3 &\n more.", "Chelsie"))
    assert {"It is <3 & more.", "Chelsie, 1.50 s, 24 kHz", "0 s", "1.4 s"} <= drawing.texts.keys()
    assert "Chelsie" not in speech_svg(tone(300, 1.5), RATE, "")


@pytest.mark.parametrize("text", ["word " * 100, "天" * 200])
def test_a_long_reply_shows_its_beginning(text: str) -> None:
    title = next(iter(Drawing(speech_svg(tone(300, 0.5), RATE, text)).texts))
    assert title is not None
    assert title.endswith("…")
    assert text.startswith(title[:-1])
    assert 30 < len(title) <= 76


@pytest.mark.parametrize("count", [1, 100, 20 * RATE])
def test_any_length_and_silence_can_be_drawn(count: int) -> None:
    drawing = Drawing(speech_svg(np.zeros(count, np.float32), RATE, ""))
    card = drawing.root[0].get("fill", "")
    assert np.unique(drawing.spectrogram).tolist() == [sum(bytes.fromhex(card[1:]))]
    assert 1 <= drawing.spectrogram.shape[1] <= 600
    assert drawing.open.max() == pytest.approx(1.0, abs=0.11)


def test_a_low_rate_has_no_marks_beyond_its_highest_frequency() -> None:
    texts = Drawing(speech_svg(tone(300, 0.5)[::3], 8000, "")).texts
    assert "2 kHz" in texts
    assert not {"4", "4 kHz", "8 kHz"} & texts.keys()


def test_a_png_has_the_pixels_it_was_made_of() -> None:
    random = np.random.default_rng(0)
    palette = random.integers(0, 256, (64, 3)).astype(np.uint8)
    pixels = random.integers(0, 64, (5, 7)).astype(np.uint8)
    with Image.open(io.BytesIO(png(pixels, palette))) as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), palette[pixels])


def test_marks_are_round_and_few() -> None:
    assert marks(0.0, 1.0) == pytest.approx(np.arange(11) / 10)
    assert marks(-0.3, 2.0) == pytest.approx(np.arange(-1, 11) * 0.2)
    assert marks(0.0, 60.0) == pytest.approx(np.arange(13) * 5)
