"""Speech on disk: `python -m nano.data.speech_cache --work nano-work` synthesizes every clip once.

21,599 clips, a quarter of an hour of one core, a gigabyte. The run can be stopped and continued. The clips come
in random order, so an incomplete cache can be used. `--evaluation-only` synthesizes the clips of the evaluation sets
alone, a minute of one core.

The cache's splits: `train`; `unseen_combination` (held-out texts, training voices), `unseen_voice` (training texts,
held-out voices), `unseen_take` (training texts and voices at speeds and pitches of their own, never trained on) and
`random_words` (random rows of words, for training).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nano import world
from nano.data import tokenizer
from nano.data.voices import RATE, VOICES, Samples, synthesize, voices

_SEED = 11
# Clips per training text; texts of small families have more.
_COPIES = {"sum": 14, "timer": 20, "light": 40, "small_talk": 50, "outside": 26, "question": 24}
_HELD_OUT_COPIES = {"sum": 2, "timer": 5, "light": 8, "outside": 10}
# Clips in held-out voices of every second training text.
_VOICE_COPIES = {"light": 3, "small_talk": 6, "outside": 2}
# One in this many training texts is synthesized again for evaluation.
_TAKE_EVERY = 2
_RANDOM_WORDS = 2500
_TRAINING_SPLITS = ("train", "random_words")
_FULL_SCALE = 32767


@dataclass(frozen=True)
class Clip:
    """One utterance in the cache.

    Attributes:
        text: the spoken words.
        voice: engine and name.
        split: one of the module's splits.
        speed: factor on the voice's speed.
        pitch: factor on the voice's pitch.
        start: index of its first sample in the file.
        length: number of samples.
    """

    text: str
    voice: str
    split: str
    speed: float
    pitch: float
    start: int = 0
    length: int = 0


def plan(*, evaluation_only: bool = False) -> list[Clip]:
    """Every clip, or those of the evaluation sets alone, in the order of the file; the same every time."""
    family = {request.text: request.family for request in world.requests()}
    training, held_out = voices("train"), voices("held_out")
    shares = [voice.share for voice in training]
    clips = []

    def add(text: str, split: str, copies: int) -> None:
        # The seed has text and split, so that a change of one text does not change other clips.
        rng = random.Random(f"{_SEED} {text} {split}")
        span = (0.8, 1.25) if split in {"train", "random_words"} else (0.85, 1.2)
        for _ in range(copies):
            voice = rng.choice(held_out) if split == "unseen_voice" else rng.choices(training, shares)[0]
            clips.append(Clip(text, str(voice), split, round(rng.uniform(*span), 3), round(rng.uniform(*span), 3)))

    trained = world.spoken_texts("train")
    for text in trained:
        add(text, "train", _COPIES[family.get(text, "question")])
    for text in world.spoken_texts("held_out"):
        add(text, "unseen_combination", _HELD_OUT_COPIES[family[text]])
    questions = set(world.question_texts())
    for number, text in enumerate(trained):
        if text in questions or number % _TAKE_EVERY == 0:
            add(text, "unseen_take", 1 + (text in questions))
        if text not in questions:
            add(text, "unseen_voice", _VOICE_COPIES.get(family[text], 1) if number % 2 else 0)
    random.Random(_SEED).shuffle(clips)
    for text in world.random_word_texts(_RANDOM_WORDS):
        add(text, "random_words", 1)
    return [clip for clip in clips if not (evaluation_only and clip.split in _TRAINING_SPLITS)]


class SpeechCache:
    """The clips on disk, memory-mapped; of a running `build`, those that are complete.

    Attributes:
        clips: all clips in the file's order.

    Raises:
        FileNotFoundError: there is no cache: run `python -m nano.data.speech_cache`.
    """

    def __init__(self, work: Path) -> None:
        index, sound = _files(work)
        with index.open() as lines:
            clips = [Clip(**json.loads(line)) for line in lines if line.endswith("\n")]
        # A running build may have written half a sample.
        self._take(clips, np.memmap(sound, np.int16, "r", shape=(sound.stat().st_size // 2,)))

    @classmethod
    def in_memory(cls, clips: list[Clip], samples: NDArray[np.int16]) -> SpeechCache:
        """A cache of `clips` in memory; `samples` int16 [n] has all of them."""
        made = cls.__new__(cls)
        made._take(clips, samples)
        return made

    def _take(self, clips: list[Clip], samples: NDArray[np.int16]) -> None:
        self.clips = clips
        self._samples = samples
        self._found: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, clip in enumerate(clips):
            self._found[clip.split, clip.text].append(number)

    def __len__(self) -> int:
        return len(self.clips)

    def numbers(self, split: str) -> list[int]:
        """The numbers of the clips of `split`."""
        return [number for number, clip in enumerate(self.clips) if clip.split == split]

    def samples(self, number: int) -> Samples:
        """Clip `number`, clean: float32 [length] at 16 kHz."""
        clip = self.clips[number]
        return np.asarray(self._samples[clip.start : clip.start + clip.length] / np.float32(_FULL_SCALE), np.float32)

    def find(self, text: str, split: str = "train") -> list[int]:
        """The numbers of the clips of `text`; empty without one."""
        return self._found.get((split, text), [])


def _files(work: Path) -> tuple[Path, Path]:
    return work / "data" / "speech.jsonl", work / "data" / "speech.s16"


def build(work: Path, *, evaluation_only: bool = False) -> None:
    """Synthesizes `plan()` into the cache; continues an interrupted run of the same plan."""
    index, sound = _files(work)
    index.parent.mkdir(parents=True, exist_ok=True)
    clips = plan(evaluation_only=evaluation_only)
    done = (
        [json.loads(line) for line in index.read_text().splitlines(True) if line.endswith("\n")]
        if index.exists()
        else []
    )
    end = done[-1]["start"] + done[-1]["length"] if done else 0
    by_name = {str(voice): voice for voice in VOICES}
    began = time.monotonic()
    with index.open("r+" if done else "w") as lines, sound.open("r+b" if done else "wb") as file:
        for entry in done:
            # A truncated line is written again.
            lines.write(json.dumps(entry) + "\n")
        lines.truncate()
        file.seek(end * 2)
        file.truncate()
        for number, clip in enumerate(clips[len(done) :], len(done)):
            samples = synthesize(by_name[clip.voice], clip.text, clip.speed, clip.pitch)
            file.write(np.round(samples * _FULL_SCALE).astype("<i2").tobytes())
            entry = asdict(clip) | {"start": end, "length": len(samples)}
            end += len(samples)
            file.flush()
            lines.write(json.dumps(entry) + "\n")
            if number % 500 == 0:
                lines.flush()
                seconds = time.monotonic() - began
                print(
                    f"{number} of {len(clips)} clips, {end / RATE / 3600:.1f} h of speech, {seconds:.0f} s", flush=True
                )
    print(f"{len(clips)} clips, {end / RATE / 3600:.1f} h of speech")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--evaluation-only", action="store_true", help="the clips of the evaluation sets alone")
    arguments = parser.parse_args()
    work: Path = arguments.work
    # Trained weights belong to a tokenizer, so an existing one is kept.
    if not (work / tokenizer.FOLDER / "tokenizer.json").exists():
        tokenizer.write_tokenizer(work / tokenizer.FOLDER)
    build(work, evaluation_only=arguments.evaluation_only)


if __name__ == "__main__":
    main()
