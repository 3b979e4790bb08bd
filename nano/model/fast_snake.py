"""BigVGAN's anti-aliased activation in one fused pass in C, several times faster to train than the reference's.

The function and its parameters are the reference's (`Qwen2_5OmniAntiAliasedActivation1d` with
`Qwen2_5OmniSnakeBeta`). Without a C compiler, and on a GPU, the reference's own modules are used.
"""

from __future__ import annotations

import ctypes
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAntiAliasedActivation1d

from omni_edge.backend.kernels import compile_library, switched_off
from omni_edge.backend.kernels.compiler import find_compiler
from omni_edge.backend.machine import cache_root, digest, processor

_SOURCE = Path(__file__).with_name("snake.c")
_FLAGS = ("-ffast-math", "-fvisibility=default")


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled `snake.c`, in the cache folder; None without a C compiler, or with OMNI_EDGE_KERNELS=0."""
    compiler = find_compiler()
    if compiler is None or switched_off():
        return None
    version = digest(_SOURCE.read_bytes() + f"{compiler} {processor()}".encode())
    library = cache_root() / f"nano-snake-{version}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder) / library.name
            compile_library(compiler, [_SOURCE], made, _FLAGS)
            made.replace(library)
    return ctypes.CDLL(str(library))


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
    """A replacement of the reference's module that shares its parameters.

    x float32 [batch, channels, time] -> float32 [batch, channels, time].
    """

    def __init__(self, reference: Qwen2_5OmniAntiAliasedActivation1d) -> None:
        super().__init__()
        self.act = reference.act
        taps = reference.upsample.filter.reshape(-1).float()
        even, odd = torch.arange(5, -6, -2) + 6, torch.arange(5, -6, -2) + 5
        # Taps by offset j. Up: 2 f[5 - 2j], j = -3..2, for the even phase; 2 f[6 - 2j], j = -2..3, for the odd one.
        # Down: f[2j + 5], j = -2..3, and f[2j + 6], j = -3..2.
        self.up = nn.Buffer(2 * torch.stack([taps[even], taps[odd]]), persistent=False)
        self.down = nn.Buffer(torch.stack([taps[1::2], taps[0::2]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.exp(self.act.alpha)
        inverse_b = 1 / (torch.exp(self.act.beta) + self.act.no_div_by_zero)
        y: Tensor = _Fused.apply(x, a, inverse_b, self.up, self.down)
        return y


def accelerate(model: nn.Module) -> None:
    """Replaces every activation of a BigVGAN on the CPU in place. The names of the state dict do not change."""
    if next(model.parameters()).device.type != "cpu" or _library() is None:
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Qwen2_5OmniAntiAliasedActivation1d):
                setattr(module, name, FastActivation(child))
