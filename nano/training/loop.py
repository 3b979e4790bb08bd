"""What every training loop here needs: a device, a learning rate that warms up and fades, an average of the weights, a
log that is a CSV, and a state on disk from which an interrupted stage goes on."""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

SAVE_EVERY_S = 120.0
LOG_EVERY = 20


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`: the GPU where torch finds one, unless told otherwise."""
    found = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    told = "where to train; cuda where torch finds a GPU (%(default)s)"
    parser.add_argument("--device", choices=found, default=found[-1], help=told)


def parse(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """A stage's arguments by name, without `--device` and `--threads`: torch uses those from now on.

    Tensors are made on the device from then on, except for those that share numpy's memory (`torch.from_numpy`).
    """
    add_device(parser)
    arguments = vars(parser.parse_args())
    torch.set_default_device(arguments.pop("device"))
    torch.set_num_threads(arguments.pop("threads", 1))
    return arguments


def save(content: dict[str, Any], path: Path) -> None:
    """Saves tensors, all at once or not at all, as those of a CPU: a stage may go on where there is no GPU."""
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
    """Exponential average of a module's state; short-sighted at first, so that the random start is soon forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the weights after `step`."""
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
        """Loads the saved state into `parts`; returns the step to go on with (0: nothing saved)."""
        if not self._state.exists():
            self._log.write_text(",".join(("step", *self._columns, "seconds")) + "\n")
            return 0
        saved = torch.load(self._state, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        self._before = float(saved["seconds"])
        return int(saved["step"])

    def note(self, step: int, **values: float) -> None:
        """Takes in one step's losses; writes their mean now and then."""
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
        """Spent on this stage, in all of its runs."""
        return self._before + time.monotonic() - self._begun

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved > SAVE_EVERY_S

    def save(self, step: int, parts: dict[str, nn.Module | torch.optim.Optimizer]) -> None:
        """Saves the state after `step` steps."""
        save({"step": step, "seconds": self.seconds, **{k: v.state_dict() for k, v in parts.items()}}, self._state)
        self._saved = time.monotonic()
