"""Trains the audio encoder towards the words' embeddings, after the first run of `train_thinker`.

    python -m nano.training.train_audio_encoder --work nano-work

The encoder is trained to give the embeddings of the spoken words, which are fixed; its first steps also have phones as
targets (`nano.data.phone_alignment`). A bell or tone of a video has the word "sound" as its target. Only the encoder's
weights and the recognizer's blank are kept.
"""

from __future__ import annotations

import argparse
import csv
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nano.data.phone_alignment import aligned_speech
from nano.data.sequences import Composer
from nano.data.speech_cache import SpeechCache
from nano.data.voices import Samples, augment
from nano.data.word_errors import word_errors
from nano.training.loop import parse, save
from nano.training.optimizer import Optimizer
from nano.training.thinker_losses import ThinkerTraining
from nano.world.scenes import SECONDS, VideoScene, render_sound

NAME = "audio_encoder"
_ALIGNED = 2400
_WARM_UP = 50
_LOG_EVERY = 20
_SAVE_EVERY = 100
_EVALUATED = 96
# Part of the sounds that are a video's sound track, and its target; part that are random words.
_BELLS, _BELL = 0.1, " sound"
_RANDOM_WORDS = 0.3
# Vocal tract length perturbation: the mel spectrogram is stretched along its bins by up to this part.
_STRETCH = 0.12
_LEARNED = ("thinker.model.audio_tower.", "blank")
_AUXILIARY = "phones."


def clips(composer: Composer, cache: SpeechCache, step: int, count: int) -> tuple[list[Tensor], list[list[int]]]:
    """Log-mels of `count` sounds, of clips in rooms or of videos, and their tokens."""
    rng = np.random.default_rng(step)
    random, bells = rng.multinomial(count, [_RANDOM_WORDS, _BELLS, 1 - _RANDOM_WORDS - _BELLS])[:2].tolist()
    picked = [*_draw(cache, "random_words", random, rng), *_draw(cache, "train", count - random - bells, rng)]
    sounds = [augment(cache.samples(n), rng) for n in picked]
    for _ in range(bells):
        scene = VideoScene(kind="sound", sound_at=int(rng.integers(SECONDS)), seed=2 * int(rng.integers(1 << 30)))
        sounds.append(render_sound(scene))
    texts = [cache.clips[n].text for n in picked] + [_BELL] * bells
    mels = [_stretch_vocal_tract(composer.mel(samples), rng) for samples in sounds]
    return list(map(torch.as_tensor, mels)), list(map(composer.codec.encode, texts))


def _stretch_vocal_tract(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`mel` [bins, frames] stretched along its bins: vocal tract length perturbation."""
    bins = np.arange(len(mel))
    sources = np.minimum(bins * rng.uniform(1 - _STRETCH, 1 + _STRETCH), len(mel) - 1)
    low = np.minimum(sources.astype(np.int64), len(mel) - 2)
    part = (sources - low).astype(mel.dtype)[:, None]
    stretched: np.ndarray = mel[low] * (1 - part) + mel[low + 1] * part
    return stretched


def _draw(cache: SpeechCache, split: str, count: int, rng: np.random.Generator) -> list[int]:
    numbers = cache.numbers(split)
    return [numbers[index] for index in rng.integers(len(numbers), size=count)]


def with_phones(
    composer: Composer, aligned: list[tuple[Samples, np.ndarray]], step: int, count: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-mels and phones of `count` aligned clips, with noise."""
    rng = np.random.default_rng(step)
    mels, labels = [], []
    for index in rng.integers(len(aligned), size=count):
        samples, names = aligned[index]
        level = np.sqrt(np.mean(np.square(samples))) * 10.0 ** (-rng.uniform(5.0, 40.0) / 20.0)
        noise = rng.standard_normal(len(samples), np.float32) * np.float32(level)
        mels.append(torch.as_tensor(composer.mel(samples + noise)))
        labels.append(torch.as_tensor(names))
    return mels, labels


@torch.no_grad()
def token_errors(model: ThinkerTraining, composer: Composer, cache: SpeechCache, split: str) -> float:
    """Tokens wrongly recognized, per token spoken, in some clips of `split` as the likeliest path has them."""
    numbers = cache.numbers(split)[:_EVALUATED]
    if not numbers:
        return float("nan")
    mels = [torch.as_tensor(composer.mel(cache.samples(n))) for n in numbers]
    spoken = [composer.codec.encode(cache.clips[n].text) for n in numbers]
    states = model.encode_audio(mels)
    scores = model.text_scores(states)
    blank = scores.shape[-1] - 1
    paths = scores.argmax(-1).split(states.tokens)
    found = [[token for token, _ in groupby(path.tolist()) if token != blank] for path in paths]
    wrong = sum(word_errors(list(map(str, a)), list(map(str, b))) for a, b in zip(spoken, found, strict=True))
    return wrong / sum(map(len, spoken))


def train(work: Path, steps: int, phones: int, fade: int, batch: int, rate: float) -> None:
    """Continues the audio encoder of WORK/training/thinker.pt into WORK/training/audio_encoder.pt."""
    composer = Composer(work)
    model = ThinkerTraining(composer)
    folder = work / "training"
    words = torch.load(folder / "thinker.pt", weights_only=True)["averages"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(words[name])
            parameter.requires_grad_(name.startswith((*_LEARNED, _AUXILIARY)))
    optimizer = Optimizer(model)
    state = folder / f"{NAME}.state"
    if state.exists():
        optimizer.load_state_dict(torch.load(state, weights_only=True))
    aligned = aligned_speech(work, _ALIGNED) if optimizer.steps < phones else []
    began = time.monotonic()
    sums: dict[str, float] = {}
    cache = SpeechCache(work)
    with (folder / f"{NAME}.csv").open("a", newline="") as file:
        log = csv.writer(file)
        for step in range(optimizer.steps, steps):
            losses = {}
            if step < phones:
                mels, labels = with_phones(composer, aligned, step, batch)
                losses["phones"] = model.phone_loss(model.encode_audio(mels), labels)
                losses["phones"].backward()
            mels, spoken = clips(composer, cache, step, batch)
            losses["spoken"] = model.text_loss(model.encode_audio(mels), spoken)
            losses["spoken"].backward()
            optimizer.step(rate * min((step + 1) / _WARM_UP, 1.0, (steps - step) / fade))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / _LOG_EVERY
            if (step + 1) % _LOG_EVERY == 0:
                row = {name: round(value, 4) for name, value in sums.items()}
                if (step + 1) % _SAVE_EVERY == 0:
                    _put(model, optimizer.averages)
                    for split in ("unseen_combination", "unseen_voice"):
                        row[split] = round(token_errors(model, composer, cache, split), 3)
                    _put(model, optimizer.masters)
                log.writerow([step + 1, row, round(time.monotonic() - began)])
                file.flush()
                print(step + 1, row, f"{time.monotonic() - began:.0f} s", flush=True)
                sums = {}
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
                save(optimizer.state_dict(), state)
                learned = {k: v for k, v in optimizer.averages.items() if k.startswith(_LEARNED)}
                save(learned, folder / f"{NAME}.pt")


@torch.no_grad()
def _put(model: ThinkerTraining, weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        model.get_parameter(name).copy_(tensor)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--phones", type=int, default=200)
    parser.add_argument("--fade", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=4e-3)
    train(**parse(parser))


if __name__ == "__main__":
    main()
