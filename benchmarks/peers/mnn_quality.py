"""MNN's logits and greedy replies, for benchmarks/quality.py, by the interpreter that has its package.

    MNN/bin/python benchmarks/peers/mnn_quality.py MODEL FOLDER --threads 2

MODEL is what `mnn.py build` wrote; FOLDER as in `quality_request.py`. Tokens go through the model one at a time, as in
decode.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import MNN.llm
import numpy as np
from quality_request import QualityRequest

# Layers and head. The embedding, of which a token reads one row, is a file of its own.
WEIGHTS = "llm.mnn.weight"


class Mnn:
    """The model and its one context."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._model = MNN.llm.create(str(folder / "config.json"))
        self._model.set_config({"thread_num": threads, "sampler_type": "greedy", "reuse_kv": True})
        self._model.load()
        self._native = self._model._c_obj

    def reset(self) -> None:
        """Forgets everything."""
        self._native.reset()

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Appends tokens; float32 [tokens, vocabulary] behind each of them."""
        rows = [np.array(self._model.forward([token]).read(), np.float32).reshape(-1) for token in tokens]
        return np.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    model: Path = arguments.model
    mnn = Mnn(model, arguments.threads)
    about = {
        "engine": f"MNN {version('MNN')}",
        "precision": json.loads((model / "export_args.json").read_text("utf-8")),
        "nbytes": (model / WEIGHTS).stat().st_size,
    }
    QualityRequest(arguments.folder).answer(mnn.reset, mnn.logits, about)


if __name__ == "__main__":
    main()
