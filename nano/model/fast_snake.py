"""BigVGAN's anti-aliased activation, several times faster to train than the reference's: one fused pass in C.

The function and its parameters are the reference's (`Qwen2_5OmniAntiAliasedActivation1d` with
`Qwen2_5OmniSnakeBeta`); only who computes it differs. Without a C compiler, and on a GPU,
the reference's own modules are used.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAntiAliasedActivation1d

_SOURCE = Path(__file__).with_name("snake.c")
_FLAGS = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]


@cache
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"omni-nano-snake-{digest}.so"
    if not built.exists():
        part = built.with_suffix(f".{id(built)}.part")
        subprocess.run([compiler, *_FLAGS, str(_SOURCE), "-o", str(part), "-lm"], check=True)
        part.replace(built)
    return ctypes.CDLL(str(built))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, inverse_b: Tensor, up: Tensor, down: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, a, inverse_b, up, down)
        y = torch.empty_like(x)
        library = _library()
        assert library is not None
        sizes = [ctypes.c_long(size) for size in x.shape]
        library.snake_forward(*(_pointer(each) for each in (x, a, inverse_b, up, down, y)), *sizes)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, a, inverse_b, up, down = ctx.saved_tensors
        incoming = gradients[0].contiguous()
        g_x, g_a, g_b = torch.empty_like(x), torch.zeros_like(a), torch.zeros_like(inverse_b)
        library = _library()
        assert library is not None
        sizes = [ctypes.c_long(size) for size in x.shape]
        pointers = (x, a, inverse_b, up, down, incoming, g_x, g_a, g_b)
        library.snake_backward(*(_pointer(each) for each in pointers), *sizes)
        return g_x, g_a, g_b, None, None


class FastActivation(nn.Module):
    """Drop-in for the reference's module, sharing its parameters; x float32 [batch, channels, time] -> the same."""

    def __init__(self, reference: Qwen2_5OmniAntiAliasedActivation1d) -> None:
        super().__init__()
        self.act = reference.act
        taps = reference.upsample.filter.reshape(-1).float()
        even, odd = torch.arange(5, -6, -2) + 6, torch.arange(5, -6, -2) + 5
        # Tap of offset j: going up the even phase takes 2 f[5 - 2j], j = -3..2, the odd one 2 f[6 - 2j], j = -2..3;
        # coming down f[2j + 5], j = -2..3, and f[2j + 6], j = -3..2.
        self.up = nn.Buffer(2 * torch.stack([taps[even], taps[odd]]), persistent=False)
        self.down = nn.Buffer(torch.stack([taps[1::2], taps[0::2]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.exp(self.act.alpha)
        inverse_b = 1 / (torch.exp(self.act.beta) + self.act.no_div_by_zero)
        y: Tensor = _Fused.apply(x, a, inverse_b, self.up, self.down)
        return y


def accelerate(model: nn.Module) -> None:
    """Replaces every activation of a BigVGAN on the CPU in place; the state dict's names stay as they are."""
    if next(model.parameters()).device.type != "cpu" or _library() is None:
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Qwen2_5OmniAntiAliasedActivation1d):
                setattr(module, name, FastActivation(child))
