"""Speech with the time of each phone, from flite, for the first steps of the audio encoder.

With the words alone as targets, the first thousand steps go into finding where the words are. A few hundred steps with
phones as targets replace them; later steps do not need this data.
"""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano import world
from nano.data.voices import RATE, Samples, voices
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.media.wav import read_wave

_SEED = 5
_LONGEST_S = 30.0
# The rate of the audio encoder's middle states.
FRAMES_PER_SECOND = 50
# fmt: off
PHONES = [
    "pau", "aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh",
    "ih", "iy", "jh", "k", "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v",
    "w", "y", "z", "zh",
]
# fmt: on


def _speak(text: str, voice: str, speed: float, pitch: float) -> tuple[Samples, NDArray[np.int64]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        options = ["--setf", f"duration_stretch={1 / speed:.3f}", "--setf", f"int_f0_target_mean={pitch:.1f}"]
        command = ["flite", "-voice", voice, *options, "-psdur", "-t", text, "-o", str(file)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        samples, rate = read_wave(file, _LONGEST_S)
    converted = resampler(rate, RATE).step(samples, ResampleState(), end=True)
    samples = samples if converted is None else converted
    phones = re.findall(r"([a-z]+):([0-9.]+)", output)
    ends = np.array([float(end) for _, end in phones])
    names = [PHONES.index(name) if name in PHONES else 0 for name, _ in phones]
    middles = (np.arange(len(samples) * FRAMES_PER_SECOND // RATE) + 0.5) / FRAMES_PER_SECOND
    labels = np.array(names)[np.minimum(np.searchsorted(ends, middles), len(ends) - 1)]
    return np.asarray(samples * (0.5 / np.abs(samples).max()), np.float32), labels.astype(np.int64)


def aligned_speech(work: Path, count: int) -> list[tuple[Samples, NDArray[np.int64]]]:
    """`count` clips of training texts in flite's training voices, kept on disk.

    Returns:
        for each clip, float32 samples at 16 kHz and int64 [frames], indices in PHONES.
    """
    file = work / "data" / f"aligned-{count}.npz"
    if not file.exists():
        rng = random.Random(_SEED)
        flite_voices = [voice for voice in voices("train") if voice.engine == "flite"]
        texts = world.spoken_texts("train")
        clips = []
        for _ in range(count):
            voice = rng.choice(flite_voices)
            clips.append(
                _speak(rng.choice(texts), voice.name, rng.uniform(0.8, 1.25), voice.pitch * rng.uniform(0.8, 1.25))
            )
        samples = np.concatenate([np.round(clip * 32767).astype(np.int16) for clip, _ in clips])
        labels = np.concatenate([names.astype(np.uint8) for _, names in clips])
        sizes = np.array([[len(clip), len(names)] for clip, names in clips])
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, samples=samples, labels=labels, sizes=sizes)
    with np.load(file) as saved:
        cuts = np.cumsum(saved["sizes"], axis=0)[:-1]
        sounds = np.split(saved["samples"].astype(np.float32) / np.float32(32767), cuts[:, 0])
        return list(zip(sounds, np.split(saved["labels"].astype(np.int64), cuts[:, 1]), strict=True))
