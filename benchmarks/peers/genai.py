"""onnxruntime-genai, INT4 as its model builder makes it by default (block 32, symmetric, accuracy level 4).

    GENAI/bin/python benchmarks/peers/genai.py build /tmp/omni-3b-text /tmp/peer-genai       # needs 18 GB of memory
    GENAI/bin/python benchmarks/peers/genai.py measure /tmp/peer-genai

Greedy search, KV cache shared between past and present, the last position alone through the head.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime_genai as og
from engine import CAPACITY, main, prompt


def build(text_model: Path, model: Path) -> None:
    """Runs the package's model builder."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    options = ["prune_lm_head=true", "hf_token=false"]
    paths = ["-i", str(text_model), "-o", str(model), "-c", str(model / "cache")]
    subprocess.run([*command, *paths, "-p", "int4", "-e", "cpu", "--extra_options", *options], check=True)


class GenAI:
    """The model, and one generator for each context that was asked for."""

    build = "model builder, int4, prune_lm_head"

    def __init__(self, folder: Path, threads: int) -> None:
        config = og.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = og.Model(config)
        self._vocabulary: int = json.loads((folder / "genai_config.json").read_text("utf-8"))["model"]["vocab_size"]
        self._filled: dict[int, og.Generator] = {}
        self.versions = {"onnxruntime-genai": og.__version__}

    def _generator(self) -> og.Generator:
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=CAPACITY, min_length=CAPACITY, do_sample=False)
        return og.Generator(self._model, parameters)

    def prefill(self, tokens: int) -> float:
        generator = self._generator()
        began = time.perf_counter()
        generator.append_tokens(prompt(tokens, self._vocabulary))
        generator.generate_next_token()
        return time.perf_counter() - began

    def decode(self, context: int, steps: int) -> float:
        if context not in self._filled:
            self._filled[context] = self._generator()
            self._filled[context].append_tokens(prompt(context, self._vocabulary))
        generator = self._filled[context]
        generator.rewind_to(context - 1)
        generator.append_tokens(prompt(1, self._vocabulary))
        generator.generate_next_token()  # the logits are there already: this only draws
        began = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        return time.perf_counter() - began


if __name__ == "__main__":
    main(__doc__, build, GenAI)
