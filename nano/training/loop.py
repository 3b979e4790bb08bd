"""The common part of the training stages: device, learning rate, averaged weights, a CSV log and a state on disk.

A stage that was interrupted continues from its state."""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

SAVE_EVERY_S = 120.0
LOG_EVERY = 20


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`; the default is the GPU if torch finds one."""
    found = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    purpose = "where to train; default: cuda if torch finds a GPU (%(default)s)"
    parser.add_argument("--device", choices=found, default=found[-1], help=purpose)


def parse(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """A stage's arguments by name, without `--device` and `--threads`, which are set in torch.

    New tensors are on the device, except for those that share numpy's memory (`torch.from_numpy`).
    """
    add_device(parser)
    arguments = vars(parser.parse_args())
    torch.set_default_device(arguments.pop("device"))
    torch.set_num_threads(arguments.pop("threads", 1))
    return arguments


def save(content: dict[str, Any], path: Path) -> None:
    """Saves tensors on the CPU, completely or not at all: a stage may continue where there is no GPU."""
    partial = path.with_suffix(".partial")
    torch.save(tree_map_only(Tensor, Tensor.cpu, content), partial)
    partial.replace(path)


def fade(step: int, steps: int, warm_up: int, last: float = 0.02) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine from 1 to `last`."""
    if step < warm_up:
        return (step + 1) / warm_up
    done = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))


class Average:
    """Exponential average of a module's state; its decay grows from 0.1, so that the random start has little weight."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Adds the weights after `step`."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for mine, its in zip(self.module.parameters(), module.parameters(), strict=True):
            mine.lerp_(its, 1 - decay)
        for kept, its_buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(its_buffer)


class Journal:
    """Log and saved state of one stage: WORK/training/NAME.csv and NAME.pt."""

    def __init__(self, work: Path, name: str, columns: tuple[str, ...]) -> None:
        folder = work / "training"
        folder.mkdir(parents=True, exist_ok=True)
        self._log, self._state = folder / f"{name}.csv", folder / f"{name}.pt"
        self._columns = columns
        self._sums = dict.fromkeys(columns, 0.0)
        self._count = 0
        self._begun = self._saved = time.monotonic()
        self._before = 0.0

    def resume(self, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> int:
        """Loads the saved state into `parts`; returns the step to continue with (0 without a saved state)."""
        if not self._state.exists():
            self._log.write_text(",".join(("step", *self._columns, "seconds")) + "\n")
            return 0
        saved = torch.load(self._state, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        self._before = float(saved["seconds"])
        return int(saved["step"])

    def note(self, step: int, **values: float) -> None:
        """Adds one step's losses; writes their mean every LOG_EVERY steps."""
        for name, value in values.items():
            self._sums[name] += value
        self._count += 1
        if (step + 1) % LOG_EVERY == 0:
            means = [f"{self._sums[name] / self._count:.5g}" for name in self._columns]
            line = ",".join((str(step + 1), *means, f"{self.seconds:.0f}"))
            with self._log.open("a") as log:
                log.write(line + "\n")
            print(line, flush=True)
            self._sums, self._count = dict.fromkeys(self._columns, 0.0), 0

    @property
    def seconds(self) -> float:
        """Seconds spent on this stage in all of its runs."""
        return self._before + time.monotonic() - self._begun

    def due(self) -> bool:
        """Whether SAVE_EVERY_S have passed since the last save."""
        return time.monotonic() - self._saved > SAVE_EVERY_S

    def save(self, step: int, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> None:
        """Saves the state after `step` steps."""
        save({"step": step, "seconds": self.seconds, **{k: v.state_dict() for k, v in parts.items()}}, self._state)
        self._saved = time.monotonic()


@dataclass(frozen=True)
class Recipe:
    """AdamW's settings in `train_part`.

    Attributes:
        rate: largest learning rate.
        warm_up: steps until it is reached.
        betas: AdamW's.
        weight_decay: AdamW's.
        clip: gradients of a larger norm are scaled down to it; None: never.
        average: decay of the averaged weights; None: the weights are not averaged.
    """

    rate: float
    warm_up: int
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    average: float | None = None


def train_part(
    model: nn.Module,
    recipe: Recipe,
    journal: Journal,
    steps: int,
    losses: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    keep: Callable[[nn.Module], None] | None = None,
) -> None:
    """Trains `model` from the journal's saved state on; saves every few minutes and at the end.

    Args:
        model: the module, on the default device.
        recipe: how it is optimized.
        journal: log and saved state.
        steps: steps in all.
        losses: for a step, the loss whose gradient is followed and the losses that are logged.
        keep: is called with the weights to keep (averaged, if the recipe averages) after each save.
    """
    average = None if recipe.average is None else Average(model, recipe.average)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    parts: dict[str, nn.Module | torch.optim.Optimizer] = {"model": model, "optimizer": optimizer}
    if average is not None:
        parts["average"] = average.module
    for step in range(journal.resume(parts), steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * fade(step, steps, recipe.warm_up)
        loss, logged = losses(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        if average is not None:
            average.update(model, step)
        journal.note(step, **{name: float(value.detach()) for name, value in logged.items()})
        if journal.due() or step + 1 == steps:
            journal.save(step + 1, parts)
            if keep is not None:
                keep(model if average is None else average.module)


def stage_arguments(description: str | None, steps: int) -> dict[str, Any]:
    """The arguments of a stage that has `--work`, `--steps` and `--device`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--steps", type=int, default=steps)
    return parse(parser)
