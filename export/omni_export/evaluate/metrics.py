"""Distances between what the reference computes and what a bundle computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# A mel is the natural logarithm of an amplitude.
_DECIBELS_PER_NEPER = 20 / float(np.log(10))
_SPECTRUM_SAMPLES, _SPECTRUM_HOP = 1024, 256
# Quieter than this, relative to the loudest value of the reference, a spectrum counts as silent: 80 dB.
_SILENCE = 1e-4
# An SNR of equal arrays, in dB: beyond what float32 can show.
HIGHEST_SNR = 200.0


@dataclass
class TokenScores:
    """A bundle's predictions beside the reference's, one entry per predicted token.

    Attributes:
        kl: KL divergence of the reference's distribution from the bundle's (nats).
        reference_nll: negative log-likelihood of the token in the reference (nats).
        nll: negative log-likelihood of the token in the bundle (nats).
        same_choice: whether both have the same most likely token.
    """

    kl: list[float] = field(default_factory=list)
    reference_nll: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    same_choice: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kl)

    def add(self, reference: Array, value: Array, token: int) -> None:
        """Adds a prediction.

        Args:
            reference: the reference's logits, [vocabulary].
            value: the bundle's logits, [vocabulary].
            token: what stands there.
        """
        wanted, got = log_softmax(reference), log_softmax(value)
        # Rounding alone can make the sum negative.
        self.kl.append(max(0.0, float(np.exp(wanted) @ (wanted - got))))
        self.reference_nll.append(-float(wanted[token]))
        self.nll.append(-float(got[token]))
        self.same_choice.append(int(reference.argmax()) == int(value.argmax()))

    @property
    def mean_kl(self) -> float:
        """Mean KL divergence (nats)."""
        return float(np.mean(self.kl))

    @property
    def agreement(self) -> float:
        """Share of tokens at which both have the same first choice, 0 to 1."""
        return float(np.mean(self.same_choice))

    @property
    def reference_perplexity(self) -> float:
        """Perplexity of the reference."""
        return float(np.exp(np.mean(self.reference_nll)))

    @property
    def perplexity(self) -> float:
        """Perplexity of the bundle."""
        return float(np.exp(np.mean(self.nll)))

    @property
    def extra_nll(self) -> float:
        """Negative log-likelihood that the bundle adds per token (nats)."""
        return float(np.mean(self.nll) - np.mean(self.reference_nll))


def log_softmax(logits: Array) -> NDArray[np.float64]:
    """Logarithms of the probabilities, float64 of the shape of `logits` [vocabulary]."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def relative_error(reference: Array, value: Array) -> float:
    """RMS of the difference / RMS of the reference."""
    wanted = reference.astype(np.float64)
    return float(np.sqrt(np.square(value - wanted).sum() / np.square(wanted).sum()))


def cosine(reference: Array, value: Array) -> float:
    """Mean cosine of the angle between the rows of two arrays [n, width]."""
    wanted, got = reference.astype(np.float64), value.astype(np.float64)
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(got, axis=1)
    return float(np.mean((wanted * got).sum(axis=1) / lengths))


def snr(reference: Array, value: Array) -> float:
    """Signal-to-noise ratio (dB), at most `HIGHEST_SNR`."""
    return min(-20 * float(np.log10(max(relative_error(reference, value), 1e-300))), HIGHEST_SNR)


def mel_distance(reference: Array, value: Array) -> float:
    """Mean over the frames of the RMS difference over the channels of two mels [frames, mel_dim] (dB)."""
    difference = (value.astype(np.float64) - reference) * _DECIBELS_PER_NEPER
    return float(np.sqrt(np.square(difference).mean(axis=1)).mean())


def log_spectral_distance(reference: Array, value: Array) -> float:
    """Mean over the frames of the RMS difference over the frequencies of two sounds' log spectra (dB).

    Both spectra end 80 dB below the loudest value of the reference: differences below that are not audible.
    """
    wanted, got = _spectrum(reference), _spectrum(value)
    floor = _SILENCE * max(float(wanted.max()), 1e-30)
    difference = 20 * np.log10(np.maximum(got, floor) / np.maximum(wanted, floor))
    return float(np.sqrt(np.square(difference).mean(axis=1)).mean())


def _spectrum(samples: Array) -> NDArray[np.float64]:
    """Magnitudes, float64 [frames, frequencies]; a short sound is padded to one frame."""
    padded = np.pad(samples.astype(np.float64), (0, max(0, _SPECTRUM_SAMPLES - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _SPECTRUM_SAMPLES)[::_SPECTRUM_HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(_SPECTRUM_SAMPLES), axis=1))
