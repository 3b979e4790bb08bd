"""Trains the vocoder: the reference's BigVGAN on crops of both voices, from their own mel spectrograms.

The loss compares magnitudes of short-time spectra at several resolutions, and the mel spectrogram. It ignores phase.

    python -m nano.training.train_bigvgan --work nano-work
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniBigVGANConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavBigVGANModel

from nano.data.mel24 import HOP, log_mel
from nano.data.speech_corpus import Corpus
from nano.model.architecture import TOKEN2WAV, save_part
from nano.model.fast_snake import accelerate
from nano.training.loop import Journal, Recipe, stage_arguments, train_part

SEED = 11
STEPS = 3000
BATCH = 8
CROP = 32  # mel frames
RECIPE = Recipe(rate=1e-3, warm_up=100, betas=(0.8, 0.99), clip=5.0, average=0.998)
# (window, hop) in samples: from harmonics of the pitch to single periods.
RESOLUTIONS = ((2048, 240), (1024, 120), (512, 60), (256, 40), (96, 24))
_MEL_WEIGHT = 1.5
_QUIET = 1e-3


def bigvgan() -> Qwen2_5OmniToken2WavBigVGANModel:
    """The model, initialized so that every level has unit scale."""
    model = Qwen2_5OmniToken2WavBigVGANModel(Qwen2_5OmniBigVGANConfig(**TOKEN2WAV["bigvgan_config"]))
    for name, module in model.named_modules():
        if isinstance(module, nn.ConvTranspose1d):
            taps = module.kernel_size[0] / module.stride[0]
            nn.init.normal_(module.weight, std=(module.in_channels * taps) ** -0.5)
        elif isinstance(module, nn.Conv1d):
            gain = 0.3 if ".convs2." in name or name == "conv_post" else 0.8
            nn.init.normal_(module.weight, std=gain * (module.in_channels * module.kernel_size[0]) ** -0.5)
        if isinstance(module, nn.ConvTranspose1d | nn.Conv1d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def spectral_loss(made: Tensor, real: Tensor) -> Tensor:
    """Mean over RESOLUTIONS of spectral convergence and log-magnitude distance; float32 [batch, n] each."""
    total = made.new_zeros(())
    for window, hop in RESOLUTIONS:
        shape = torch.hann_window(window, device=made.device)
        spectra = []
        for sound in (made, real):
            complex_ = torch.stft(sound, window, hop, window=shape, return_complex=True)
            spectra.append((complex_.real.square() + complex_.imag.square() + 1e-8).sqrt())
        scale = window**-0.5
        distance = functional.l1_loss((spectra[0] * scale + _QUIET).log(), (spectra[1] * scale + _QUIET).log())
        total = total + distance + (spectra[0] - spectra[1]).norm() / spectra[1].norm()
    return total / len(RESOLUTIONS)


def batch(corpus: Corpus, clips: list[int], random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crops: log mel float32 [BATCH, bins, CROP], samples float32 [BATCH, CROP * HOP]."""
    mels, sounds = [], []
    for index in random.choice(clips, BATCH):
        clip = corpus.clips[index]
        first = int(random.integers(clip.length // HOP - CROP + 1))
        mels.append(corpus.mel(clip)[first : first + CROP].T)
        sounds.append(corpus.audio(clip)[first * HOP : (first + CROP) * HOP])
    return torch.as_tensor(np.stack(mels)), torch.as_tensor(np.stack(sounds))


def train(work: Path, steps: int) -> None:
    """Writes WORK/weights/bigvgan.safetensors every few minutes; continues an interrupted run."""
    torch.manual_seed(SEED)
    corpus = Corpus.load(work)
    clips = [index for index, clip in enumerate(corpus.clips) if clip.split == "train" and clip.length >= CROP * HOP]
    model = bigvgan()
    accelerate(model)

    def losses(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        mel, real = batch(corpus, clips, np.random.default_rng((SEED, step)))
        # The reference returns its samples on the CPU.
        made = model(mel).to(mel.device)
        spectral, mel_loss = spectral_loss(made, real), functional.l1_loss(log_mel(made), mel)
        return spectral + _MEL_WEIGHT * mel_loss, {"spectral": spectral, "mel": mel_loss}

    journal = Journal(work, "bigvgan", ("spectral", "mel"))
    train_part(model, RECIPE, journal, steps, losses, lambda kept: save_part(work, "bigvgan", kept.state_dict()))


def main() -> None:
    """Command line: see the module's text."""
    train(**stage_arguments(__doc__, STEPS))


if __name__ == "__main__":
    main()
