"""Choosing the next token: repetition penalty, temperature, top-k, top-p, in the reference's order.

Source: transformers `RepetitionPenaltyLogitsProcessor`, `TemperatureLogitsWarper`, `TopKLogitsWarper`,
`TopPLogitsWarper`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import SamplingSection
from omni_edge.errors import UsageError

# Logits per run; the maxima of the runs bound the search for the best tokens.
_RUN_LENGTH = 64
# Beyond these, float32 logits overflow or vanish.
_TEMPERATURES = (1e-3, 1e3)
_PENALTIES = (1e-6, 1e6)


@dataclass(frozen=True)
class Sampling:
    """The rules for drawing tokens; None takes the bundle's default.

    Attributes:
        temperature: divides the logits; 0 always takes the best token (the penalty still applies).
        top_k: keep the k best tokens; 0 keeps all.
        top_p: keep the best tokens that together reach this probability; 1 keeps all.
        repetition_penalty: above 1 makes tokens that occurred before less likely.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        for name, valid, needed in (
            (
                "temperature",
                self.temperature == 0 or _within(self.temperature, _TEMPERATURES),
                f"0, or {_TEMPERATURES[0]:g} to {_TEMPERATURES[1]:g}",
            ),
            ("top_k", self.top_k is None or self.top_k >= 0, "0 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            (
                "repetition_penalty",
                _within(self.repetition_penalty, _PENALTIES),
                f"{_PENALTIES[0]:g} to {_PENALTIES[1]:g}",
            ),
        ):
            if not valid:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {needed}.")

    def over(self, defaults: SamplingSection) -> SamplingSection:
        """Complete settings: `defaults`, replaced by every field that is not None."""
        chosen = {item.name: getattr(self, item.name) for item in fields(self)}
        return SamplingSection(
            **{name: getattr(defaults, name) if value is None else value for name, value in chosen.items()},
            max_new_tokens=defaults.max_new_tokens,
        )


def _within(value: float | None, limits: tuple[float, float]) -> bool:
    """Whether `value` is left open, or lies within `limits`; a NaN does not."""
    return value is None or limits[0] <= value <= limits[1]


OnToken = Callable[[NDArray[np.float32], int], None]


class TokenSource(Protocol):
    """What chooses the next token."""

    def draw(self, logits: NDArray[np.float32]) -> int:
        """The next token for `logits` [vocabulary]."""


class TokenMask(Protocol):
    """Which tokens may come next, as a grammar allows them."""

    def allowed(self) -> NDArray[np.bool_]:
        """bool [vocabulary]; at least one is True."""

    def accept(self, token: int) -> None:
        """`token` was drawn."""


class GivenTokens:
    """Tokens that are given; the logits do not matter.

    Args:
        tokens: in their order, the closing one included.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: Iterator[int] = iter(tokens)

    def draw(self, logits: NDArray[np.float32]) -> int:
        """The next of them."""
        return next(self._tokens)


class Sampler:
    """Draws tokens, with a penalty on those that occurred before.

    Args:
        settings: complete settings.
        seed: a sequence of numbers that names the random stream.
        vocab_size: number of logits.
        suppress: tokens that are never drawn.
        mask: which tokens may come next; None: all.
        on_token: called with the logits, float32 [vocabulary], and the token that was drawn from them.
    """

    def __init__(
        self,
        settings: SamplingSection,
        seed: tuple[int, ...],
        vocab_size: int,
        suppress: Iterable[int] = (),
        mask: TokenMask | None = None,
        on_token: OnToken | None = None,
    ) -> None:
        self.settings = settings
        self._mask, self._on_token = mask, on_token
        self._random = np.random.default_rng(seed)
        self._seen = np.zeros(vocab_size, np.bool_)
        self._suppress = np.fromiter(suppress, np.int64)

    def observe(self, tokens: NDArray[np.int64]) -> None:
        """Counts `tokens` as having occurred."""
        self._seen[tokens] = True

    def draw(self, logits: NDArray[np.float32]) -> int:
        """The next token for `logits` [vocabulary]; it counts as having occurred."""
        token = self._draw(logits)
        self._seen[token] = True
        if self._mask is not None:
            self._mask.accept(token)
        if self._on_token is not None:
            self._on_token(logits, token)
        return token

    def _draw(self, logits: NDArray[np.float32]) -> int:
        settings = self.settings
        if settings.repetition_penalty != 1.0 or self._suppress.size:
            logits = logits.copy()
        if settings.repetition_penalty != 1.0:
            seen = np.flatnonzero(self._seen)
            values, penalty = logits[seen], np.float32(settings.repetition_penalty)
            logits[seen] = np.where(values < 0, values * penalty, values / penalty)
        logits[self._suppress] = -np.inf
        if self._mask is not None:
            logits = np.where(self._mask.allowed(), logits, np.float32(-np.inf))
        if settings.temperature == 0:
            return int(logits.argmax())
        return self._random_token(logits)

    def _random_token(self, logits: NDArray[np.float32]) -> int:
        settings = self.settings
        kept = _largest(logits, settings.top_k) if 0 < settings.top_k < logits.size else np.arange(logits.size)
        # Ascending and stable: the draw does not depend on the order of equal logits.
        kept = kept[np.lexsort((kept, logits[kept]))]
        scaled = logits[kept].astype(np.float64) / settings.temperature
        weights = np.exp(scaled - scaled[-1])
        weights /= weights.sum()
        if settings.top_p < 1:
            weights[:-1][np.cumsum(weights)[:-1] <= 1 - settings.top_p] = 0
            weights /= weights.sum()
        chosen = int(np.searchsorted(np.cumsum(weights), self._random.random(), side="right"))
        return int(kept[min(chosen, kept.size - 1)])


def _largest(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest values, in no order.

    A partition of a whole vocabulary takes a millisecond, a noticeable part of a decode step. Few values reach the
    count-th largest of the maxima of short runs, and the largest ones are among them.
    """
    runs = logits.size // _RUN_LENGTH
    if runs > count:
        maxima = logits[: runs * _RUN_LENGTH].reshape(runs, _RUN_LENGTH).max(axis=1)
        bound = np.partition(maxima, runs - count)[runs - count]
        candidates = np.flatnonzero(logits >= bound)
    else:
        candidates = np.arange(logits.size)
    best = np.argpartition(logits[candidates], -count)[-count:]
    found: NDArray[np.int64] = candidates[best]
    return found
