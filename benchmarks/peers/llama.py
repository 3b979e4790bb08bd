"""llama.cpp, Q4_0 or Q4_K_M, through llama-cpp-python built from source for this machine's processor.

    LLAMA/bin/python benchmarks/peers/llama.py build /tmp/omni-3b-text /tmp/peer-llama.gguf
    LLAMA/bin/python benchmarks/peers/llama.py build /tmp/omni-3b-text /tmp/peer-llama-k.gguf --k-quants
    LLAMA/bin/python benchmarks/peers/llama.py measure /tmp/peer-llama.gguf

The quantization is llama.cpp's own Q4_0 as everyone has it (the head in Q6_K); `--pure` puts the head in Q4_0 as well,
which reads fewer bytes a token. `--k-quants` writes Q4_K_M, without an importance matrix. Calls go to the library's C
interface: `llama_decode` and its greedy sampler, nothing of the Python package's own loop.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from engine import CAPACITY, main, prompt

# Names in the checkpoint and in the GGUF file: of the model's tensors, and of a layer's.
TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER_TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    """The name of a Qwen2 tensor in a GGUF file."""
    stem, _, kind = name.rpartition(".")
    if stem in TENSORS:
        return f"{TENSORS[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{LAYER_TENSORS[part]}.{kind}"


def read_tensors(folder: Path) -> dict[str, Any]:
    """Memory maps of the raw bfloat16 values, by name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            offset = 8 + size + entry["data_offsets"][0]
            found[name] = np.memmap(path, "<u2", "r", offset, tuple(entry["shape"]))
    return found


def qwen2_writer(path: Path, config: dict[str, Any], rope_theta: float) -> gguf.GGUFWriter:
    """A GGUF file with the sizes of a text model and no vocabulary: requests have token ids."""
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(rope_theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    return writer


def write_gguf(text_model: Path, path: Path) -> None:
    """The text model as GGUF: matrices in bfloat16, vectors in float32."""
    config = json.loads((text_model / "config.json").read_text("utf-8"))
    writer = qwen2_writer(path, config, config["rope_theta"])
    tensors = read_tensors(text_model)
    half = gguf.GGMLQuantizationType.BF16
    for name, bits in tensors.items():
        shape = bits.shape if bits.ndim == 1 else (*bits.shape[:-1], 2 * bits.shape[-1])
        kind, dtype, size = (None, np.float32, 4) if bits.ndim == 1 else (half, np.uint8, 2)
        writer.add_tensor_info(gguf_name(name), shape, np.dtype(dtype), size * bits.size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for bits in tensors.values():
        values = np.asarray(bits)
        vector = (values.astype(np.uint32) << 16).view(np.float32)
        writer.write_tensor_data(vector if values.ndim == 1 else values.view(np.uint8))
    writer.close()


def build(text_model: Path, model: Path, pure: bool = False, k_quants: bool = False) -> None:
    """Writes a bfloat16 file, quantizes it by llama.cpp, and removes it."""
    whole = model.with_suffix(".bf16.gguf")
    write_gguf(text_model, whole)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M if k_quants else llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    parameters.pure = pure
    if pure:
        parameters.output_tensor_type = parameters.token_embedding_type = llama_cpp.GGML_TYPE_Q4_0
    status = llama_cpp.llama_model_quantize(str(whole).encode(), str(model).encode(), parameters)
    whole.unlink()
    if status:
        raise RuntimeError(f"llama.cpp could not quantize {whole} (status {status})")


class Llama:
    """The model and one context, with llama.cpp's own choice of flash attention and KV types."""

    build: str

    def __init__(self, path: Path, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp could not load {path}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = CAPACITY
        parameters.n_batch = 2048
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._sampler = llama_cpp.llama_sampler_init_greedy()
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._length = 0
        description = ctypes.create_string_buffer(128)
        llama_cpp.llama_model_desc(self._model, description, len(description))
        self.build = f"{description.value.decode()}, {path.stat().st_size / 1e9:.2f} GB"
        self.versions = {"llama-cpp-python": llama_cpp.__version__}

    def prefill(self, tokens: int) -> float:
        self._trim(0)
        began = time.perf_counter()
        self._step(prompt(tokens, self._vocabulary))
        self._draw()
        return time.perf_counter() - began

    def decode(self, context: int, steps: int) -> float:
        if self._length < context:
            self._trim(0)
            self._step(prompt(context, self._vocabulary))
        self._trim(context)
        token = prompt(1, self._vocabulary)[0]
        began = time.perf_counter()
        for _ in range(steps):
            self._step([token])
            token = self._draw()
        return time.perf_counter() - began

    def _trim(self, length: int) -> None:
        llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1)
        self._length = length

    def _draw(self) -> int:
        return int(llama_cpp.llama_sampler_sample(self._sampler, self._context, -1))

    def _step(self, tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, len(tokens)))
        if status:
            raise RuntimeError(f"llama_decode failed with status {status}")
        self._length += len(tokens)


if __name__ == "__main__":
    chosen = [option for option in ("--pure", "--k-quants") if option in sys.argv]
    for option in chosen:
        sys.argv.remove(option)
    main(__doc__, lambda text, model: build(text, model, "--pure" in chosen, "--k-quants" in chosen), Llama)
