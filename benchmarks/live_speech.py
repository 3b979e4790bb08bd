"""What a user says, and what is said around: questions of any length, requests, babble."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omni_edge.live.voice_detector import VOICE_RATE
from omni_edge.media import load_audio

HELD_OUT = Path(__file__).parents[1] / "tests" / "data" / "nano" / "heldout.flac"
Samples = NDArray[np.float32]

# Samples below it are not speech; the clips were recorded without noise.
_SPEECH_AMPLITUDE = 0.01
_REFERENCE_SPLIT = "reference"


@dataclass(frozen=True)
class Clip:
    """A spoken request.

    Attributes:
        text: its words.
        voice: the synthesizer's name of the voice.
        samples: float32 [n] at 16 kHz; the first and the last one are speech.
    """

    text: str
    voice: str
    samples: Samples


@cache
def clips() -> tuple[Clip, ...]:
    """54 requests in 20 voices, which the built-in model was not trained on."""
    samples = np.asarray(load_audio(HELD_OUT).samples, np.float32)
    index = json.loads(HELD_OUT.with_suffix(".json").read_text("utf-8"))["clips"]
    found = []
    for entry in index:
        if entry["split"] != _REFERENCE_SPLIT:
            part = samples[entry["start"] : entry["start"] + entry["length"]]
            loud = np.flatnonzero(np.abs(part) > _SPEECH_AMPLITUDE)
            found.append(Clip(entry["text"], entry["voice"], part[loud[0] : loud[-1] + 1]))
    return tuple(found)


def clip(text: str, voice: str = "") -> Clip:
    """The request with these words, by a voice whose name contains `voice`.

    Raises:
        SystemExit: there is none.
    """
    for each in clips():
        if each.text == text and voice in each.voice:
            return each
    known = ", ".join(sorted({each.text for each in clips()}))
    raise SystemExit(f"Nobody says {text!r}. There are: {known}.")


def requests() -> list[Clip]:
    """The requests that are about no picture."""
    about_pictures = ("colour", "picture", "blink", "number", "move", "see", "what is this", "it say")
    return [each for each in clips() if not any(word in each.text for word in about_pictures)]


def question(seconds: float, first: int, pause: float) -> Samples:
    """A question of this length, float32 [n] at 16 kHz: requests behind each other, the last sample is speech.

    Args:
        seconds: its length.
        first: number of the request that it ends with.
        pause: silence between two of them (s).
    """
    count, parts, length = round(seconds * VOICE_RATE), list[Samples](), 0
    number = first
    while length < count:
        part = clips()[number % len(clips())].samples
        parts = [part, *([silence(pause)] if parts else []), *parts]
        length = sum(each.size for each in parts)
        number += 1
    return np.concatenate(parts)[-count:]


def silence(seconds: float) -> Samples:
    """float32 [n] at 16 kHz."""
    return np.zeros(round(seconds * VOICE_RATE), np.float32)


class Hiss:
    """White noise.

    Args:
        decibels: root mean square below full scale.
    """

    def __init__(self, decibels: float = -60.0) -> None:
        self._amplitude = np.float32(10 ** (decibels / 20))
        self._random = np.random.default_rng(0)

    def step(self, count: int) -> Samples:
        """The next samples, float32 [count]."""
        return self._random.standard_normal(count, np.float32) * self._amplitude


class Babble:
    """People who talk at the same time without a pause.

    Args:
        decibels: root mean square of all together below full scale.
        talkers: how many.
    """

    def __init__(self, decibels: float, talkers: int, seed: int = 0) -> None:
        self._amplitude = np.float32(10 ** (decibels / 20) / np.sqrt(talkers))
        self._random = np.random.default_rng(seed)
        self._waiting = [self._say() for _ in range(talkers)]
        # They do not begin together.
        self._waiting = [part[self._random.integers(part.size) :] for part in self._waiting]

    def step(self, count: int) -> Samples:
        """The next samples, float32 [count]."""
        mixed = np.zeros(count, np.float32)
        for number in range(len(self._waiting)):
            while self._waiting[number].size < count:
                self._waiting[number] = np.concatenate([self._waiting[number], self._say()])
            mixed += self._waiting[number][:count]
            self._waiting[number] = self._waiting[number][count:]
        return mixed * self._amplitude

    def _say(self) -> Samples:
        """A request at another speed, root mean square 1."""
        spoken = clips()[self._random.integers(len(clips()))].samples
        places = np.arange(0, spoken.size - 1, self._random.uniform(0.85, 1.15))
        said = np.interp(places, np.arange(spoken.size), spoken)
        return np.asarray(said / np.sqrt(np.mean(said**2)), np.float32)
