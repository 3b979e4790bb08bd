"""MNN's logits and greedy replies, for benchmarks/quality.py, by the interpreter that has its package.

    MNN/bin/python benchmarks/peers/mnn_quality.py MODEL FOLDER --threads 2

MODEL is what `mnn.py build` wrote. Reads FOLDER/request.json (passages and prompts as token ids); writes
FOLDER/logits-N.npy, float32 [tokens, vocabulary], and FOLDER/answer.json: replies and bytes. Tokens go through the
model one at a time, as in decode.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import MNN.llm
import numpy as np

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

    def logits(self, token: int) -> np.ndarray:
        """Appends a token; the logits behind it, float32 [vocabulary]."""
        return np.array(self._model.forward([token]).read(), np.float32).reshape(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    request = json.loads((folder / "request.json").read_text("utf-8"))
    mnn = Mnn(arguments.model, arguments.threads)
    for number, passage in enumerate(request["passages"]):
        mnn.reset()
        np.save(folder / f"logits-{number}.npy", np.stack([mnn.logits(token) for token in passage[:-1]]))
    replies: list[list[int]] = []
    for prompt in request["prompts"]:
        mnn.reset()
        for token in prompt[:-1]:
            mnn.logits(token)
        replies.append([])
        token = prompt[-1]
        for _ in range(request["reply_tokens"]):
            token = int(mnn.logits(token).argmax())
            replies[-1].append(token)
    answer: dict[str, Any] = {
        "engine": f"MNN {version('MNN')}",
        "precision": json.loads((arguments.model / "export_args.json").read_text("utf-8")),
        "nbytes": (arguments.model / WEIGHTS).stat().st_size,
        "replies": replies,
    }
    (folder / "answer.json").write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main()
