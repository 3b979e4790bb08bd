"""MNN, INT4 with blocks of 64, exported by `llmexport` as its documentation says.

    MNN/bin/python benchmarks/peers/mnn.py build /tmp/omni-3b-text /tmp/peer-mnn       # needs 11 GB of memory
    MNN/bin/python benchmarks/peers/mnn.py measure /tmp/peer-mnn

MNN's converter reports each use to its makers and, for that, installs another package; `build` keeps both from
happening with a stand-in of that package. Greedy sampling; decoding is timed by MNN's own clock (`decode_us`: forward
and sampling, without the Python call).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from engine import main, prompt

STAND_IN = {
    "aliyun/__init__.py": "",
    "aliyun/log/__init__.py": "LogClient = PutLogsRequest = object\n",
    "aliyun/log/logitem.py": "LogItem = object\n",
}


def build(text_model: Path, model: Path) -> None:
    """Runs `llmexport` as a script: installed from PyPI, its modules find each other only from its own folder."""
    package = importlib.util.find_spec("llmexport")
    if package is None or package.origin is None:
        raise RuntimeError("llmexport is not installed in this environment: pip install llmexport")
    folder = Path(package.origin).parent
    with tempfile.TemporaryDirectory() as stand_in:
        for name, text in STAND_IN.items():
            path = Path(stand_in, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), stand_in]),
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }
        options = ["--export", "mnn", "--quant_bit", "4", "--quant_block", "64"]
        paths = ["--path", str(text_model.resolve()), "--dst_path", str(model.resolve())]
        command = [sys.executable, str(folder / "llmexport.py"), *paths, *options]
        # It writes a log into the current folder.
        subprocess.run(command, check=True, env=environment, cwd=stand_in)


class Mnn:
    """The model and its one context."""

    build = "llmexport, quant_bit 4, quant_block 64"

    def __init__(self, folder: Path, threads: int) -> None:
        import MNN.llm  # noqa: PLC0415 -- `build` works without

        self._model = MNN.llm.create(str(folder / "config.json"))
        self._model.set_config({"thread_num": threads, "sampler_type": "greedy", "reuse_kv": True})
        self._model.load()
        # The package's own wrapper does not pass the number of tokens on.
        self._native = self._model._c_obj
        self._vocabulary: int = json.loads((folder / "llm_config.json").read_text("utf-8")).get("vocab_size", 1 << 16)
        self.versions = {"MNN": version("MNN"), "llmexport": version("llmexport")}

    def prefill(self, tokens: int) -> float:
        self._native.reset()
        began = time.perf_counter()
        self._native.generate(prompt(tokens, self._vocabulary), 0)
        return time.perf_counter() - began

    def decode(self, context: int, steps: int) -> float:
        if self._native.get_current_history() < context:
            self._native.reset()
            self._native.generate(prompt(context, self._vocabulary), 0)
        if self._native.get_current_history() > context:
            self._native.erase_history(context, 0)
        before = self._model.context
        micros, made = before.decode_us, before.gen_seq_len
        self._native.generate(prompt(1, self._vocabulary), steps)
        after = self._model.context
        return float((after.decode_us - micros) / (after.gen_seq_len - made) * steps / 1e6)


if __name__ == "__main__":
    main(__doc__, build, Mnn)
