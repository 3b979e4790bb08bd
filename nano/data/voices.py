"""The voices that speak to omni-nano, and the acoustics of rooms.

The synthesizers are packaged: flite, espeak-ng and festival (Debian: `apt install flite espeak-ng festival
festvox-us-slt-hts`). Three voices and two kinds of noise are not in the training data.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.media.wav import read_wave

Samples = NDArray[np.float32]
Split = Literal["train", "held_out"]
Engine = Literal["flite", "espeak-ng", "festival"]

RATE = 16_000
_ESPEAK_WORDS_PER_MINUTE = 165
_ESPEAK_PITCH = 50
_LONGEST_S = 30.0
# Silence is quieter than this part of the loudest 10 ms; this many seconds of it stay around the words.
_SILENCE = 0.02
_MARGIN_S = 0.04


@dataclass(frozen=True)
class Voice:
    """One voice.

    Attributes:
        engine: the synthesizer.
        name: the synthesizer's name of the voice.
        pitch: mean fundamental frequency in Hz, as flite takes it; 0 for other engines.
        share: part of the training speech, relative to the other voices.
        split: whether it is in the training data.
    """

    engine: Engine
    name: str
    pitch: float = 0.0
    share: float = 1.0
    split: Split = "train"

    def __str__(self) -> str:
        return f"{self.engine}:{self.name}"


VOICES = (
    # flite's slt and rms come from recordings of people, so their share is larger.
    Voice("flite", "slt", 170.0, 5.0),
    Voice("flite", "rms", 105.0, 5.0),
    Voice("flite", "kal", 95.0, 2.0),
    Voice("flite", "kal16", 95.0, 2.0),
    Voice("festival", "cmu_us_slt_arctic_hts", share=0.2),
    *(
        Voice("espeak-ng", name)
        for name in (
            "en-us",
            "en-us+m1",
            "en-us+m3",
            "en-us+m7",
            "en-us+f1",
            "en-us+f3",
            "en-us+Andy",
            "en-us+belinda",
            "en-us+klatt2",
            "en-gb",
            "en-gb+m2",
            "en-gb+f4",
            "en-gb+steph2",
            "en-gb-x-rp",
            "en-gb-x-rp+f5",
            "en-029+m6",
            "en-us-nyc+m8",
        )
    ),
    Voice("flite", "awb", 125.0, split="held_out"),
    Voice("espeak-ng", "en-gb-scotland+f2", split="held_out"),
    Voice("espeak-ng", "en-gb-x-gbclan+m5", split="held_out"),
)


def voices(split: Split) -> tuple[Voice, ...]:
    """The voices of `split`."""
    return tuple(voice for voice in VOICES if voice.split == split)


def synthesize(voice: Voice, text: str, speed: float = 1.0, pitch: float = 1.0) -> Samples:
    """Synthesizes `text`.

    Args:
        voice: the voice.
        text: lower case, as in `nano.world`.
        speed: factor on the voice's speed; festival's voice has one speed.
        pitch: factor on the voice's pitch; festival's voice has one pitch.

    Returns:
        float32 [n] at 16 kHz, silence trimmed, its loudest sample at 0.5.

    Raises:
        FileNotFoundError: the synthesizer is not installed.
        subprocess.CalledProcessError: it failed.
    """
    text = " ".join("I" if word == "i" else word for word in text.split())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        subprocess.run(
            _command(voice, text, speed, pitch, file),
            input=text.encode() if voice.engine == "festival" else None,
            check=True,
            capture_output=True,
        )
        samples, rate = read_wave(file, _LONGEST_S)
    converted = resampler(rate, RATE).step(samples, ResampleState(), end=True)
    return _trimmed(samples if converted is None else converted)


def _command(voice: Voice, text: str, speed: float, pitch: float, file: Path) -> list[str]:
    if voice.engine == "flite":
        options = ["--setf", f"duration_stretch={1 / speed:.3f}"]
        if pitch != 1.0:
            options += ["--setf", f"int_f0_target_mean={voice.pitch * pitch:.1f}"]
        return ["flite", "-voice", voice.name, *options, "-t", text, "-o", str(file)]
    if voice.engine == "espeak-ng":
        rate, height = round(_ESPEAK_WORDS_PER_MINUTE * speed), round(_ESPEAK_PITCH * pitch)
        return ["espeak-ng", "-v", voice.name, "-s", str(rate), "-p", str(height), "-w", str(file), text]
    return ["text2wave", "-o", str(file), "-eval", f"(voice_{voice.name})"]


def _trimmed(samples: Samples) -> Samples:
    hop = RATE // 100
    frames = np.abs(samples[: len(samples) // hop * hop]).reshape(-1, hop).max(axis=1)
    loud = np.flatnonzero(frames > _SILENCE * frames.max())
    margin = int(_MARGIN_S * RATE)
    start, stop = max(0, int(loud[0]) * hop - margin), (int(loud[-1]) + 1) * hop + margin
    kept = samples[start:stop]
    return np.asarray(kept * (0.5 / np.abs(kept).max()), np.float32)


# -- rooms -------------------------------------------------------------------------------------------------------


def augment(samples: Samples, rng: np.random.Generator, split: Split = "train") -> Samples:
    """Puts a clean clip into a room: vocal tract length, silence around, echo, noise, loudness.

    Args:
        samples: float32 [n] at 16 kHz.
        rng: draws all of these.
        split: the held-out rooms have other kinds of noise (brown; many voices' murmur) than the training rooms (white,
            pink, mains hum), between 12 and 30 dB below the speech; training goes from 5 to 40 dB.

    Returns:
        float32 [m] in [-1, 1].
    """
    if split == "train":
        samples = _resized(samples, rng.uniform(0.87, 1.15))
    before, after = (rng.uniform((0.02, 0.1), (0.3, 0.4)) * RATE).astype(int)
    samples = np.pad(samples, (before, after))
    if rng.random() < 0.5:
        samples = _echo(samples, rng)
    level = float(np.sqrt(np.mean(np.square(samples))))
    distance = rng.uniform(5.0, 40.0) if split == "train" else rng.uniform(12.0, 30.0)
    noise = _noise(len(samples), rng, split)
    samples = samples + noise * np.float32(level * 10.0 ** (-distance / 20.0))
    samples *= np.float32(rng.uniform(0.15, 0.95) / np.abs(samples).max())
    return np.asarray(samples, np.float32)


def _resized(samples: Samples, factor: float) -> Samples:
    """`samples` played `factor` times as fast: pitch and formants rise together, as from a shorter vocal tract."""
    places = np.arange(0, len(samples) - 1, factor)
    return np.asarray(np.interp(places, np.arange(len(samples)), samples), np.float32)


def _echo(samples: Samples, rng: np.random.Generator) -> Samples:
    """Convolution with an exponentially decaying tail of 0.1 to 0.4 s (60 dB) behind the direct sound."""
    decay = rng.uniform(0.1, 0.4)
    time = np.arange(int(decay * RATE)) / RATE
    tail = rng.normal(0.0, 1.0, len(time)) * np.exp(-6.9 * time / decay) * (time > 0.002)
    tail *= rng.uniform(0.1, 0.8) / np.sqrt(np.sum(np.square(tail)))
    tail[0] = 1.0
    size = 1 << (len(samples) + len(tail) - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
    return np.asarray(wet[: len(samples)], np.float32)


def _noise(length: int, rng: np.random.Generator, split: Split) -> Samples:
    """Noise of unit power, float32 [length]."""
    kind = rng.choice(("white", "pink", "hum") if split == "train" else ("brown", "murmur"))
    white = rng.standard_normal(length, np.float32)
    if kind == "white":
        return white
    if kind == "hum":
        time = np.arange(length, dtype=np.float32) / RATE
        mains = rng.choice((50.0, 60.0))
        hum = sum(np.sin(2 * np.pi * mains * order * time + rng.uniform(0, 6)) / order for order in range(1, 8))
        return _unit(np.asarray(hum, np.float32) + 0.2 * white)
    size = 1 << (length - 1).bit_length()
    spectrum = np.fft.rfft(white, size)
    frequency = np.maximum(np.arange(len(spectrum)) * RATE / size, 40.0)
    if kind == "murmur":
        # Shaped like speech's long-term spectrum, swelling a few times per second.
        shaped = np.fft.irfft(spectrum / (1.0 + (frequency / 500.0) ** 1.5), size)[:length]
        time = np.arange(length) / RATE
        swell = sum(np.sin(2 * np.pi * rng.uniform(1.0, 5.0) * time + rng.uniform(0, 6)) for _ in range(4))
        return _unit(shaped * np.exp(0.35 * swell))
    return _unit(np.fft.irfft(spectrum * frequency ** (-0.5 if kind == "pink" else -1.0), size)[:length])


def _unit(samples: NDArray[np.floating]) -> Samples:
    return np.asarray(samples / np.sqrt(np.mean(np.square(samples))), np.float32)
