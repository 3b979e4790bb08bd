"""The vocoder's mel spectrogram: 80 Slaney bins of the magnitude, 24 kHz, hop 240, natural logarithm.

The frames are those of the published BigVGAN: a window of 1024 samples, the signal reflected by (window - hop) / 2 at
both ends, so that n samples give exactly n / 240 mel frames.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from omni_edge.audio.mel import slaney_filters

RATE = 24_000
HOP = 240
WINDOW = 1024
BINS = 80
# 90 dB below the loudest bins, where the rounding of 16-bit samples lies.
FLOOR = 5e-5


@cache
def _filters(rate: int, window: int, bins: int) -> Tensor:
    return torch.from_numpy(slaney_filters(rate, window, bins).T.copy()).float()


def log_mel(samples: Tensor) -> Tensor:
    """float32 [batch, n] in [-1, 1], n a multiple of HOP -> log mel float32 [batch, BINS, n / HOP]."""
    edge = (WINDOW - HOP) // 2
    padded = functional.pad(samples[:, None], (edge, edge), mode="reflect")[:, 0]
    shape = torch.hann_window(WINDOW, device=samples.device)
    spectrum = torch.stft(padded, WINDOW, HOP, window=shape, center=False, return_complex=True)
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    return (_filters(RATE, WINDOW, BINS).to(samples.device) @ magnitude).clamp_min(FLOOR).log()
