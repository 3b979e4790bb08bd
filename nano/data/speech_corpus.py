"""The training data of Talker and token2wav: both voices' clips at 24 kHz and their mel spectrograms, on disk.

flite reads the world's replies and sentences of random words, which give the vocoder other sequences of words. flite is
deterministic: the same text gives the same samples.

    python -m nano.data.speech_corpus --work nano-work
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from nano import world
from nano.data.mel24 import BINS, HOP, RATE, log_mel
from omni_edge.audio.resample import ResampleState, resampler
from omni_edge.media.wav import read_wave

Kind = Literal["reply", "general"]
VOICES = {"Chelsie": "slt", "Ethan": "rms"}
SEED = 9
REPLIES = 2400
GENERAL = 3000
# Two mel frames make one codec token.
CODE_SAMPLES = 2 * HOP
# One gain per voice, so that both are equally loud (an RMS of 0.12) in every sentence.
_GAIN = {"Chelsie": 0.66, "Ethan": 1.27}
# Silence is below this part of the peak; these seconds of it are left around a sentence.
_SILENCE = 0.01
_BEFORE_S, _AFTER_S = 0.06, 0.12


@dataclass(frozen=True)
class Clip:
    """One spoken sentence; `start` and `length` in samples of the corpus file, whole codec tokens."""

    text: str
    speaker: str
    kind: Kind
    split: world.Split
    start: int
    length: int


def synthesize(text: str, speaker: str) -> NDArray[np.float32]:
    """Synthesizes `text` by flite: float32 [n] at 24 kHz, n a multiple of CODE_SAMPLES, with little silence around it.

    Raises:
        FileNotFoundError: flite is not installed (Debian: `apt install flite`).
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.wav"
        subprocess.run(["flite", "-voice", VOICES[speaker], "-t", text, "-o", str(file)], check=True)
        samples, rate = read_wave(file, 60.0)
    wide = resampler(rate, RATE).step(samples, ResampleState(), end=True)
    assert wide is not None
    return _GAIN[speaker] * fit(wide)


def fit(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Trims silence and pads to whole codec tokens."""
    loud = np.flatnonzero(np.abs(samples) > _SILENCE * np.abs(samples).max())
    first = max(int(loud[0]) - int(_BEFORE_S * RATE), 0)
    kept = samples[first : int(loud[-1]) + int(_AFTER_S * RATE)]
    filled = np.zeros(-(-len(kept) // CODE_SAMPLES) * CODE_SAMPLES, np.float32)
    filled[: len(kept)] = kept
    return filled


def sentences(rng: random.Random) -> Iterator[tuple[str, Kind, world.Split]]:
    """The texts of the corpus, each once; replies have the frequencies of `world.draw_reply`."""
    seen: set[str] = set()
    counts: dict[world.Split, int] = {"train": REPLIES, "held_out": REPLIES // 12}
    for split, count in counts.items():
        texts = sorted({world.draw_reply(rng, split) for _ in range(count * 4)})
        rng.shuffle(texts)
        for text in texts[:count]:
            if text not in seen:
                seen.add(text)
                yield text, "reply", split
    words = sorted({word for text in _vocabulary() for word in world.plain_words(text).split()})
    for index in range(GENERAL):
        # Every word in turn, among random ones.
        picked = [words[index % len(words)], *rng.choices(words, k=rng.randint(2, 6))]
        rng.shuffle(picked)
        text = " ".join(picked).capitalize() + rng.choice(".?")
        if text not in seen:
            seen.add(text)
            yield text, "general", "held_out" if index % 25 == 0 else "train"


def _vocabulary() -> list[str]:
    return [*world.reply_texts(), *(request.text for request in world.requests())]


@dataclass(frozen=True)
class Corpus:
    """`samples` int16 [n] and `mels` float16 [n / HOP, BINS] hold all clips one after the other (memory-mapped)."""

    clips: tuple[Clip, ...]
    samples: NDArray[np.int16]
    mels: NDArray[np.float16]

    @classmethod
    def load(cls, work: Path) -> Corpus:
        """Raises FileNotFoundError: run `python -m nano.data.speech_corpus` first."""
        folder = index_file(work).parent
        clips = tuple(Clip(**entry) for entry in json.loads(index_file(work).read_text()))
        samples = np.memmap(folder / "samples.i16", np.int16, "r")
        mels = np.memmap(folder / "mels.f16", np.float16, "r").reshape(-1, BINS)
        return cls(clips, samples, mels)

    def audio(self, clip: Clip) -> NDArray[np.float32]:
        """float32 [length]."""
        return self.samples[clip.start : clip.start + clip.length].astype(np.float32) / np.float32(32768)

    def mel(self, clip: Clip) -> NDArray[np.float32]:
        """float32 [length / HOP, BINS]."""
        first = clip.start // HOP
        part: NDArray[np.float32] = self.mels[first : first + clip.length // HOP].astype(np.float32)
        return part


def index_file(work: Path) -> Path:
    """The index of the clips, written last."""
    return work / "speech_corpus" / "clips.json"


def build(work: Path) -> None:
    """Writes WORK/speech_corpus, unless it exists."""
    folder = index_file(work).parent
    if index_file(work).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(text, kind, split, speaker) for text, kind, split in sentences(random.Random(SEED)) for speaker in VOICES]
    clips: list[Clip] = []
    start = 0
    with (
        ThreadPoolExecutor(2) as pool,
        (folder / "samples.i16").open("wb") as sound,
        (folder / "mels.f16").open("wb") as mels,
    ):
        spoken = pool.map(lambda task: synthesize(task[0], task[3]), tasks)
        for index, ((text, kind, split, speaker), samples) in enumerate(zip(tasks, spoken, strict=True)):
            coded = np.round(samples * 32767).astype("<i2")
            coded.tofile(sound)
            decoded = torch.from_numpy(coded.astype(np.float32) / 32768)
            log_mel(decoded[None])[0].T.contiguous().numpy().astype(np.float16).tofile(mels)
            clips.append(Clip(text, speaker, kind, split, start, len(coded)))
            start += len(coded)
            if index % 500 == 0:
                print(f"{index} of {len(tasks)} clips, {start / RATE / 60:.1f} min", flush=True)
    index_file(work).write_text(json.dumps([asdict(clip) for clip in clips]))
    print(f"{len(clips)} clips, {start / RATE / 60:.1f} min")


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    torch.set_num_threads(1)
    build(parser.parse_args().work)


if __name__ == "__main__":
    main()
