"""Metrics of the evaluation: shares with intervals, word errors, pitch, distances between sounds. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from omni_edge.audio.mel import slaney_filters

Samples = NDArray[np.float32]

# Two-sided 95 % of the normal distribution.
_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Share:
    """`right` answers of `count`."""

    right: int
    count: int

    @classmethod
    def from_verdicts(cls, verdicts: Iterable[bool]) -> Share:
        """Counts single verdicts."""
        found = list(verdicts)
        return cls(sum(found), len(found))

    @property
    def value(self) -> float:
        """From 0 to 1; not a number where `count` is 0."""
        return self.right / self.count if self.count else float("nan")

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share; (0, 1) where `count` is 0.

        Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
        """
        if not self.count:
            return 0.0, 1.0
        spread = _NORMAL_95**2 / self.count
        centre = (self.value + spread / 2) / (1 + spread)
        half = (spread * (self.value * (1 - self.value) + spread / 4)) ** 0.5 / (1 + spread)
        return max(0.0, centre - half), min(1.0, centre + half)

    def to_json(self) -> dict[str, float]:
        """Counts, share and interval."""
        low, high = self.interval()
        return {
            "right": self.right,
            "count": self.count,
            "share": round(self.value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }


@dataclass(frozen=True)
class WordErrors:
    """Word errors over several sentences.

    Attributes:
        errors: words inserted, deleted and replaced.
        words: words spoken.
        perfect: sentences without an error.
        sentences: all sentences.
    """

    errors: int
    words: int
    perfect: int
    sentences: int

    @classmethod
    def from_sentences(cls, sentences: Iterable[tuple[int, int]]) -> WordErrors:
        """Adds up (errors, words) of each sentence."""
        pairs = list(sentences)
        return cls(sum(e for e, _ in pairs), sum(w for _, w in pairs), sum(not e for e, _ in pairs), len(pairs))

    @property
    def rate(self) -> float:
        """Errors per word spoken; not a number without words."""
        return self.errors / self.words if self.words else float("nan")

    def to_json(self) -> dict[str, float]:
        """Counts and rate."""
        return {
            "errors": self.errors,
            "words": self.words,
            "rate": round(self.rate, 4),
            "perfect": self.perfect,
            "sentences": self.sentences,
        }


_RESAMPLED = 10_000


def extra_word_errors(
    sentences: Sequence[tuple[int, int]], reference: Sequence[tuple[int, int]], seed: int
) -> dict[str, float]:
    """How much higher the word error rate is than that of a reference, with a 95 % interval by paired bootstrap.

    Args:
        sentences: (errors, words) of each request.
        reference: the same for the reference's replies to the same requests.
        seed: of the resampling.
    """
    counts = np.array([sentences, reference], np.float64)
    requests = counts.shape[1]
    drawn = np.random.default_rng(seed).multinomial(requests, np.full(requests, 1 / requests), _RESAMPLED)
    errors, words = np.moveaxis(drawn @ counts, -1, 0)
    low, high = np.percentile(errors[0] / words[0] - errors[1] / words[1], [2.5, 97.5])
    errors, words = counts.sum(axis=1).T
    difference = errors[0] / words[0] - errors[1] / words[1]
    return {"difference": round(float(difference), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


# -- voices --------------------------------------------------------------------------------------------------

_PITCH_WINDOW_S, _PITCH_HOP_S = 0.04, 0.01
_LOWEST_HZ, _HIGHEST_HZ = 60.0, 400.0
# A voiced frame's periods correlate at least this well, and it is at least this loud.
_VOICED_CORRELATION = 0.6
_VOICED_LEVEL = 0.3


def median_pitch(samples: Samples, rate: int) -> float:
    """Median fundamental frequency in Hz of the voiced frames of float32 [n], by autocorrelation; 0 without any."""
    window, hop = round(_PITCH_WINDOW_S * rate), round(_PITCH_HOP_S * rate)
    longest, shortest = round(rate / _LOWEST_HZ), round(rate / _HIGHEST_HZ)
    if len(samples) < window + longest:
        return 0.0
    # Each frame is compared with the signal after it, so that long lags have as many samples as short ones.
    frames = sliding_window_view(samples.astype(np.float64), window + longest)[::hop]
    loud = np.sqrt(np.mean(np.square(frames), axis=1))
    frames = frames[loud > _VOICED_LEVEL * np.sqrt(np.mean(np.square(samples)))]
    size = 1 << (window + longest).bit_length()
    head, whole = np.fft.rfft(frames[:, :window], size), np.fft.rfft(frames, size)
    product = np.fft.irfft(whole * head.conj(), size)[:, : longest + 1]
    energy = np.cumsum(np.pad(np.square(frames), ((0, 0), (1, 0))), axis=1)
    energies = energy[:, window : window + longest + 1] - energy[:, : longest + 1]
    correlation = product / np.sqrt(energies[:, :1] * energies + 1e-12)
    within = correlation[:, shortest:]
    # The first lag that is nearly as good as the best: multiples of the period correlate as well as the period.
    best = within.max(axis=1, initial=0.0)
    first = (within >= 0.9 * best[:, None]).argmax(axis=1)
    peaks = [_climb(row, index) for row, index in zip(within, first.tolist(), strict=True)]
    voiced = [rate / (shortest + peak) for peak, value in zip(peaks, best, strict=True) if value > _VOICED_CORRELATION]
    return float(np.median(voiced)) if voiced else 0.0


def _climb(row: NDArray[np.float64], index: int) -> int:
    """The local maximum that is reached by going up from `index`."""
    while index + 1 < len(row) and row[index + 1] > row[index]:
        index += 1
    return index


@dataclass(frozen=True)
class VoiceClassifier:
    """Tells voices apart by their median pitch alone: the nearest mean on a logarithmic scale.

    Attributes:
        pitches: voice -> mean of its sentences' median pitches in Hz.
    """

    pitches: Mapping[str, float]

    @classmethod
    def fit(cls, sounds: Iterable[tuple[str, Samples]], rate: int) -> VoiceClassifier:
        """Fits the means to (voice, samples) pairs.

        Raises:
            ValueError: no sound of a voice is voiced.
        """
        found: dict[str, list[float]] = {}
        for voice, samples in sounds:
            found.setdefault(voice, []).append(median_pitch(samples, rate))
        means = {}
        for voice, pitches in found.items():
            voiced = [pitch for pitch in pitches if pitch]
            if not voiced:
                raise ValueError(f"no sound of {voice} has a pitch")
            means[voice] = float(np.exp(np.mean(np.log(voiced))))
        return cls(means)

    def classify(self, pitch: float) -> str:
        """The voice whose mean pitch is nearest to `pitch` in Hz; empty for 0."""
        if not pitch:
            return ""
        return min(self.pitches, key=lambda voice: abs(np.log(pitch / self.pitches[voice])))


# -- distances ---------------------------------------------------------------------------------------------------

_WINDOW, _HOP, _BINS = 1024, 240, 80
_FLOOR = 5e-5


@cache
def _filters(rate: int) -> NDArray[np.float64]:
    return slaney_filters(rate, _WINDOW, _BINS)


def log_mel(samples: Samples, rate: int) -> NDArray[np.float64]:
    """Natural-log mel magnitudes [frames, 80] as `nano.data.mel24` computes them, without torch."""
    edge = (_WINDOW - _HOP) // 2
    frames = sliding_window_view(np.pad(samples, edge, mode="reflect"), _WINDOW)[::_HOP]
    # torch's Hann window is periodic.
    spectrum = np.fft.rfft(frames * np.hanning(_WINDOW + 1)[:-1], axis=1)
    mel: NDArray[np.float64] = np.log(np.maximum(np.abs(spectrum) @ _filters(rate), _FLOOR))
    return mel


@dataclass(frozen=True)
class Distance:
    """The distance between two sounds of the same length.

    Attributes:
        mel: mean absolute difference of the log mels, in nats.
        snr: power of the other sound over power of the difference, in dB.
    """

    mel: float
    snr: float

    @classmethod
    def between(cls, samples: Samples, other: Samples, rate: int) -> Distance:
        """Compares `samples` with `other`, float32 [n] each."""
        error = float(np.mean(np.square(samples - other, dtype=np.float64)))
        power = float(np.mean(np.square(other, dtype=np.float64)))
        mel = float(np.abs(log_mel(samples, rate) - log_mel(other, rate)).mean())
        return cls(mel, 10 * float(np.log10(power / error)) if error else float("inf"))
