"""The reference: transformers' Qwen2 in torch, bfloat16, eager, with its dynamic cache.

    python benchmarks/peers/reference.py measure /tmp/omni-3b-text          # needs 7.5 GB of memory

There is nothing to build: it loads the text model as it is.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import transformers
from engine import main, prompt


def build(text_model: Path, model: Path) -> None:
    """A link to the text model."""
    model.symlink_to(text_model.resolve(), target_is_directory=True)


class Reference:
    """The model and one cache."""

    build = "bfloat16"

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        transformers.utils.logging.disable_progress_bar()
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._vocabulary: int = self._model.config.vocab_size
        self._cache = transformers.DynamicCache()
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}

    def prefill(self, tokens: int) -> float:
        self._cache = transformers.DynamicCache()
        began = time.perf_counter()
        self._step(prompt(tokens, self._vocabulary))
        return time.perf_counter() - began

    def decode(self, context: int, steps: int) -> float:
        if self._cache.get_seq_length() < context:
            self._cache = transformers.DynamicCache()
            self._step(prompt(context, self._vocabulary))
        if excess := self._cache.get_seq_length() - context:
            self._cache.crop(-excess)
        token = prompt(1, self._vocabulary)[0]
        began = time.perf_counter()
        for _ in range(steps):
            token = self._step([token])
        return time.perf_counter() - began

    @torch.inference_mode()
    def _step(self, tokens: list[int]) -> int:
        """Appends tokens; returns the most likely next one."""
        out = self._model(torch.tensor([tokens]), past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())


if __name__ == "__main__":
    main(__doc__, build, Reference)
