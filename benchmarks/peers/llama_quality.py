"""llama.cpp's logits and greedy replies, for benchmarks/quality.py, by the interpreter that has its package.

    LLAMA/bin/python benchmarks/peers/llama_quality.py CHECKPOINT FOLDER --kind Q4_0 --threads 2

FOLDER as in `quality_request.py`. The Thinker of CHECKPOINT (float32) is written as GGUF and quantized by llama.cpp
itself, with its defaults; answer.json says which format how many matrices got.
"""

from __future__ import annotations

import argparse
import collections
import json
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from llama import gguf_name, qwen2_writer
from quality_request import QualityRequest

PREFIX = "thinker."
LAYERS = "thinker.model."
PARTS = ("thinker.audio_tower.", "thinker.visual.")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The Thinker's tensors, float32, mapped from the file; names as in a Qwen2 model."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        if name.startswith(PREFIX) and not name.startswith(PARTS):
            if entry["dtype"] != "F32":
                raise SystemExit(f"{name} is {entry['dtype']}: this script reads checkpoints in float32.")
            start = 8 + size + entry["data_offsets"][0]
            found[name.removeprefix(PREFIX)] = np.memmap(path, "<f4", "r", start, tuple(entry["shape"]))
    return found


def write_gguf(checkpoint: Path, path: Path) -> None:
    """Writes the Thinker in float32."""
    config = json.loads((checkpoint / "config.json").read_text("utf-8"))["thinker_config"]["text_config"]
    writer = qwen2_writer(path, config, config["rope_parameters"]["rope_theta"])
    for name, values in read_tensors(checkpoint / "model.safetensors").items():
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(source: Path, target: Path, kind: str) -> None:
    """Quantizes by llama.cpp, with its defaults."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, "LLAMA_FTYPE_ALL_F32" if kind == "F32" else f"LLAMA_FTYPE_MOSTLY_{kind}")
    if status := llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), parameters):
        raise SystemExit(f"llama.cpp could not quantize to {kind} (status {status}).")


class Llama:
    """The model and one context."""

    def __init__(self, path: Path, threads: int, capacity: int) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = capacity
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._length = 0

    def reset(self) -> None:
        """Forgets everything."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._length = 0

    def logits(self, tokens: list[int]) -> np.ndarray:
        """Appends tokens; the logits behind each, float32 [tokens, vocabulary], valid until the next call."""
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, self._length + index
            batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
        status = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_batch_free(batch)
        if status:
            raise SystemExit(f"llama_decode failed with status {status}.")
        self._length += len(tokens)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), (len(tokens), self.vocabulary))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    request = QualityRequest(folder)
    whole, model = folder / "whole.gguf", folder / "model.gguf"
    write_gguf(arguments.checkpoint, whole)
    quantize(whole, model, arguments.kind)
    whole.unlink()
    tensors = gguf.GGUFReader(model).tensors
    formats = collections.Counter(tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1)
    nbytes = sum(int(tensor.n_bytes) for tensor in tensors)
    llama = Llama(model, arguments.threads, max(map(len, request.passages)))
    about = {
        "engine": f"llama-cpp-python {llama_cpp.__version__}",
        "precision": arguments.kind,
        "formats": dict(formats),
        "nbytes": nbytes,
    }
    request.answer(llama.reset, llama.logits, about)


if __name__ == "__main__":
    main()
