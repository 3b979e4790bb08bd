"""A request of benchmarks/quality.py, answered by a peer: logits of passages, greedy replies to prompts.

FOLDER/request.json has both as token ids. Written are FOLDER/logits-N.npy, float32 [tokens, vocabulary], and
FOLDER/answer.json.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class QualityRequest:
    """The request in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        request = json.loads((folder / "request.json").read_text("utf-8"))
        self.passages: list[list[int]] = request["passages"]
        self._prompts: list[list[int]] = request["prompts"]
        self._reply_tokens: int = request["reply_tokens"]

    def answer(
        self, reset: Callable[[], None], logits: Callable[[list[int]], np.ndarray], about: dict[str, Any]
    ) -> None:
        """Writes the answer.

        Args:
            reset: empties the context.
            logits: appends tokens; float32 [tokens, vocabulary] behind each of them.
            about: further fields of answer.json.
        """
        for number, passage in enumerate(self.passages):
            reset()
            np.save(self._folder / f"logits-{number}.npy", logits(passage[:-1]))
        replies: list[list[int]] = []
        for prompt in self._prompts:
            reset()
            replies.append([])
            given = prompt
            for _ in range(self._reply_tokens):
                token = int(logits(given)[-1].argmax())
                replies[-1].append(token)
                given = [token]
        (self._folder / "answer.json").write_text(json.dumps({**about, "replies": replies}), "utf-8")
