"""Muon for the matrices, AdamW for everything else, with float32 masters of the weights.

Muon (Keller Jordan, 2024) replaces a matrix's momentum by the nearest orthogonal one; small transformers need fewer
steps with it. In bfloat16 a step is three times as fast on a processor that has it, and the exported weights are the
trained ones; emulated, it takes ten times as long as float32. The masters keep the small updates that bfloat16 would
round away.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_BETAS = (0.9, 0.98)
_EPS = 1e-8
_DECAY = 0.02
# Quintic whose iteration drives singular values to one (Jordan).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Root mean square of an update over the learning rate, the same as AdamW's (Moonlight, 2025).
_UPDATE_RMS = 0.2


def working_dtype() -> torch.dtype:
    """bfloat16 where a GPU or the processor multiplies it, otherwise float32."""
    fast = torch.get_default_device().type == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether `parameter` is a hidden layer's matrix, which Muon updates."""
    return parameter.ndim == 2 and min(parameter.shape) >= 64 and "embed" not in name and "head" not in name


class Optimizer:
    """Updates a module in `working_dtype` from float32 masters.

    Attributes:
        masters: float32, by parameter name.
        averages: exponential averages of the masters, which are evaluated and exported.
    """

    def __init__(self, module: nn.Module, average_decay: float = 0.99) -> None:
        self._working = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach().float().clone() for name, p in self._working.items()}
        self.averages = {name: master.clone() for name, master in self.masters.items()}
        self._average_decay = average_decay
        self._first = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self._second: dict[str, Tensor] = {}
        self._groups: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, master in self.masters.items():
            if is_matrix(name, master):
                self._groups[tuple(master.shape)].append(name)
            else:
                self._second[name] = torch.zeros_like(master)
        self.steps = 0

    @torch.no_grad()
    def step(self, rate: float, others: float = 1.0, clip: float = 1.0) -> float:
        """Applies the gradients and clears them.

        Args:
            rate: learning rate of Muon's matrices.
            others: factor on it for all other parameters.
            clip: gradients of a larger norm are scaled down to it.

        Returns:
            the norm of the gradients.
        """
        self.steps += 1
        grads = {name: p.grad.float() for name, p in self._working.items() if p.grad is not None}
        norm = float(torch.stack([grad.norm() for grad in grads.values()]).norm())
        shrink = min(1.0, clip / (norm + 1e-6))
        for names in self._groups.values():
            present = [name for name in names if name in grads]
            if present:
                self._orthogonal(present, grads, rate)
        for name, second in self._second.items():
            if name not in grads:
                continue
            grad = grads[name] * shrink
            first = self._first[name]
            first.lerp_(grad, 1 - _BETAS[0])
            second.lerp_(grad.square(), 1 - _BETAS[1])
            corrected = second / (1 - _BETAS[1] ** self.steps)
            self.masters[name].addcdiv_(
                first / (1 - _BETAS[0] ** self.steps), corrected.sqrt() + _EPS, value=-rate * others
            )
        decay = min(self._average_decay, (1 + self.steps) / (10 + self.steps))
        for name, working in self._working.items():
            working.copy_(self.masters[name])
            self.averages[name].lerp_(self.masters[name], 1 - decay)
            working.grad = None
        return norm

    def _orthogonal(self, names: list[str], grads: dict[str, Tensor], rate: float) -> None:
        for name in names:
            self._first[name].lerp_(grads[name], 1 - _MOMENTUM)
        mixed = torch.stack([grads[name].lerp(self._first[name], _MOMENTUM) for name in names])
        turned = mixed.shape[1] > mixed.shape[2]
        x = (mixed.transpose(1, 2) if turned else mixed).to(working_dtype())
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        a, b, c = _QUINTIC
        for _ in range(_ITERATIONS):
            square = x @ x.transpose(1, 2)
            x = a * x + (b * square + c * square @ square) @ x
        update = (x.transpose(1, 2) if turned else x).float() * (_UPDATE_RMS * max(mixed.shape[1:]) ** 0.5)
        for index, name in enumerate(names):
            self.masters[name].mul_(1 - rate * _DECAY).sub_(update[index], alpha=rate)

    @torch.no_grad()
    def replace(self, weights: dict[str, Tensor]) -> None:
        """Replaces masters and averages; their momentum starts at zero."""
        for name, tensor in weights.items():
            self.masters[name].copy_(tensor)
            self.averages[name].copy_(tensor)
            self._working[name].copy_(tensor)
            self._first[name].zero_()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued run needs."""
        return {
            "steps": self.steps,
            "masters": self.masters,
            "averages": self.averages,
            "first": self._first,
            "second": self._second,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from the result of `state_dict`."""
        self.steps = int(state["steps"])
        for mine, other in (
            (self.masters, state["masters"]),
            (self.averages, state["averages"]),
            (self._first, state["first"]),
            (self._second, state["second"]),
        ):
            for name, tensor in mine.items():
                if name in other:
                    tensor.copy_(other[name])
        for name, working in self._working.items():
            working.copy_(self.masters[name])
