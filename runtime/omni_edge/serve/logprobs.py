"""Log probabilities of a reply's tokens, as `logprobs` of chat completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a tokenizer gives for a part of a character.
_PART = "\N{REPLACEMENT CHARACTER}"


class LogProbabilities:
    """Takes the logits of each token that is drawn; they are the model's own, before temperature and penalty.

    Args:
        top: tokens that are named beside the drawn one, the most likely first.
        decode: text of token ids.
    """

    def __init__(self, top: int, decode: Callable[[list[int]], str]) -> None:
        self._top, self._decode = top, decode
        self._waiting: list[dict[str, Any]] = []

    def draw(self, logits: NDArray[np.float32], token: int) -> None:
        """`token` was drawn from `logits`, float32 [vocabulary]."""
        largest = float(logits.max())
        total = largest + float(np.log(np.exp(logits.astype(np.float64) - largest).sum()))
        best = np.argsort(-logits, kind="stable")[: self._top] if self._top else np.zeros(0, np.int64)
        entry = self._entry(token, logits, total)
        self._waiting.append({**entry, "top_logprobs": [self._entry(int(each), logits, total) for each in best]})

    def take(self, count: int) -> dict[str, Any]:
        """The `logprobs` of the next `count` tokens."""
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        # The token that ends the reply has no text.
        return {"content": [entry for entry in taken if entry["token"]], "refusal": None}

    def _entry(self, token: int, logits: NDArray[np.float32], total: float) -> dict[str, Any]:
        text = self._decode([token])
        return {
            "token": text,
            "logprob": float(logits[token]) - total,
            "bytes": None if _PART in text else list(text.encode()),
        }
