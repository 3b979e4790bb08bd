"""Trains the Thinker: `python -m nano.training.train_thinker --work nano-work`, twice.

The first run trains on typed words alone and stops by itself. Then `train_audio_encoder` and `train_vision_encoder`
train the encoders towards the words' embeddings. The second run trains the Thinker on exercises of all kinds. It keeps
encoders and embeddings fixed: at the Thinker's learning rate its gradients make them worse.

With an unpacked checkpoint (`nano.model.unpack`) and `--words 0`, the second run continues from its weights.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from nano.data.exercises import EVALUATION_SETS, TYPED_SETS, evaluation_set, training_exercise
from nano.data.sequences import IGNORED, Composer, Sample, by_length
from nano.data.speech_cache import SpeechCache
from nano.model.architecture import load_part, save_part
from nano.training.loop import parse, save
from nano.training.optimizer import Optimizer
from nano.training.thinker_losses import ThinkerTraining

NAME = "thinker"
_WARM_UP = 60
_SAVE_EVERY = 100
_LOG_EVERY = 10
# Weights of the families in each phase.
_WORDS = {"timer": 5.0, "light": 4.0, "sum": 12.0, "small_talk": 2.0, "outside": 4.0, "conversation": 10.0}
_ALL = {"timer": 7.0, "light": 4.0, "sum": 5.0, "small_talk": 4.0, "outside": 8.0, "conversation": 12.0,
        "picture": 60.0, "video": 9.0, "sound_and_picture": 11.0}  # fmt: skip
_SPOKEN = 0.75
# The encoders' stages, and the parameters that are fixed after them.
_ENCODERS = ("vision_encoder", "audio_encoder")
_FIXED = (
    "thinker.model.audio_tower.",
    "thinker.model.visual.",
    "thinker.model.language_model.embed_tokens.",
)


@dataclass(frozen=True)
class Plan:
    """Lengths and rates of the training.

    Attributes:
        steps: steps in all.
        words: the first steps, with typed words alone.
        fade: the last steps, over which the learning rate falls to zero.
        batch: exercises per step.
        rate: largest learning rate.
    """

    steps: int
    words: int
    fade: int
    batch: int
    rate: float

    def rate_at(self, step: int) -> float:
        """Warm-up, then constant, then a line down to zero."""
        return self.rate * min((step + 1) / _WARM_UP, 1.0, (self.steps - step) / max(self.fade, 1))


class Source:
    """Draws training exercises; every step number gives other ones."""

    def __init__(self, work: Path, composer: Composer) -> None:
        self._work = work
        self._composer = composer
        self.reload()

    def reload(self) -> None:
        """Loads the clips that were synthesized in the meantime."""
        self.cache = SpeechCache(self._work)

    def exercises(self, step: int, count: int, weights: dict[str, float], spoken: float) -> list[Sample]:
        """`count` exercises; the part `spoken` of them is speech, the rest is typed."""
        rng = random.Random(step)
        families = rng.choices(list(weights), list(weights.values()), k=count)
        cache = self.cache if spoken else None
        return [
            self._composer.compose(training_exercise(step * 1000 + index, cache, family, rng.random() < spoken))
            for index, family in enumerate(families)
        ]


def evaluate(model: ThinkerTraining, composer: Composer, cache: SpeechCache | None, count: int) -> dict[str, float]:
    """Share of replies that are right to the letter, in the first `count` exercises of each held-out set.

    Without a cache, the sets are those of typed words.
    """
    results = {}
    for name in EVALUATION_SETS if cache else TYPED_SETS:
        samples = [composer.compose(exercise) for exercise in evaluation_set(name, cache, count)]
        right = [fine for part in by_length(samples, -(-len(samples) // 32)) for fine in model.replies_right(part)]
        results[name] = sum(right) / max(len(right), 1)
    return results


def train(work: Path, plan: Plan, evaluate_every: int, count: int) -> None:
    """Trains from the last saved state on; saves every _SAVE_EVERY steps."""
    composer = Composer(work)
    model = ThinkerTraining(composer)
    optimizer = Optimizer(model)
    folder = work / "training"
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{NAME}.pt"
    unpacked = None if state.exists() else load_part(work, NAME)
    if state.exists():
        optimizer.load_state_dict(torch.load(state, weights_only=True))
    if unpacked is not None:
        optimizer.replace({f"thinker.{name}": tensor for name, tensor in unpacked.items()})
    source = Source(work, composer)
    last = plan.words if optimizer.steps < plan.words else plan.steps
    if optimizer.steps == plan.words and unpacked is None:
        for encoder in _ENCODERS:
            optimizer.replace(torch.load(folder / f"{encoder}.pt", weights_only=True))
    if optimizer.steps >= plan.words:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(_FIXED))
    began = time.monotonic()
    # The next step's exercises are made during this step.
    with (folder / f"{NAME}.csv").open("a", newline="") as file, ThreadPoolExecutor(1) as maker:
        log = csv.writer(file)
        coming = maker.submit(_draw, source, plan, optimizer.steps)
        sums: dict[str, float] = {}
        for step in range(optimizer.steps, last):
            samples = coming.result()
            if step + 1 < last:
                coming = maker.submit(_draw, source, plan, step + 1)
            losses = _learn(model, samples)
            losses["norm"] = optimizer.step(plan.rate_at(step))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / _LOG_EVERY
            if (step + 1) % _LOG_EVERY == 0:
                row = {name: round(value, 4) for name, value in sums.items()}
                log.writerow([step + 1, row, round(time.monotonic() - began)])
                file.flush()
                print(step + 1, row, f"{time.monotonic() - began:.0f} s", flush=True)
                sums = {}
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == last:
                _save(work, state, optimizer)
                source.reload()
            if (step + 1) % evaluate_every == 0 or step + 1 == last:
                cache = source.cache if step >= plan.words else None
                results = evaluate(averaged(model, optimizer), composer, cache, count)
                row = {name: round(value, 3) for name, value in results.items()}
                log.writerow([step + 1, row, round(time.monotonic() - began)])
                file.flush()
                print("evaluation", step + 1, row, flush=True)
                restore(model, optimizer)
    if last == plan.words:
        print(
            "first run done; next: train_audio_encoder and train_vision_encoder, then this again",
            flush=True,
        )


def _draw(source: Source, plan: Plan, step: int) -> list[Sample]:
    """The exercises of one step."""
    if step < plan.words:
        return source.exercises(step, 2 * plan.batch, _WORDS, 0.0)
    return source.exercises(step, plan.batch, _ALL, _SPOKEN)


def _learn(model: ThinkerTraining, samples: list[Sample]) -> dict[str, float]:
    """Computes the gradients of one step; returns its losses."""
    total = sum(int((sample.targets != IGNORED).sum()) for sample in samples)
    mean = 0.0
    for part in by_length(samples, 3):
        logits, targets = model.scores(part)
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / total
        loss.backward()
        mean += float(loss.detach())
    return {"reply": mean}


@torch.no_grad()
def averaged(model: ThinkerTraining, optimizer: Optimizer) -> ThinkerTraining:
    """`model` with the averaged weights in it; undone by `restore`."""
    for name, parameter in model.named_parameters():
        parameter.copy_(optimizer.averages[name])
    return model


@torch.no_grad()
def restore(model: ThinkerTraining, optimizer: Optimizer) -> None:
    """Puts the trained weights back into `model`."""
    for name, parameter in model.named_parameters():
        parameter.copy_(optimizer.masters[name])


def _save(work: Path, state: Path, optimizer: Optimizer) -> None:
    save(optimizer.state_dict(), state)
    prefix = "thinker."
    weights = {name.removeprefix(prefix): t for name, t in optimizer.averages.items() if name.startswith(prefix)}
    save_part(work, "thinker", {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--words", type=int, default=300)
    parser.add_argument("--fade", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--evaluate-count", type=int, default=64)
    arguments = parse(parser)
    work, every, count = (arguments.pop(name) for name in ("work", "evaluate_every", "evaluate_count"))
    train(work, Plan(**arguments), every, count)


if __name__ == "__main__":
    main()
