"""The Thinker's text model alone, as a `Qwen2ForCausalLM` checkpoint that every peer's converter understands.

    python benchmarks/peers/text_model.py /tmp/omni-3b /tmp/omni-3b-text       # 6.8 GB, a few hundred MB of memory

The weights are the checkpoint's own, bit for bit where they are bfloat16. On text, TMRoPE is the rotary embedding of
Qwen2, so this is the same network.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.lazy_tensor import LazyTensor

SHARD_BYTES = 2 << 30
PIECE_VALUES = 1 << 24
PREFIXES = {"thinker.model.": "model.", "thinker.lm_head.": "lm_head."}
# Fields that the text configuration shares with the Qwen2 configuration.
SHARED_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "vocab_size",
)


def config(text: dict[str, Any], tied: bool) -> dict[str, Any]:
    """`config.json` of the text model."""
    rope = text.get("rope_parameters") or text
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "rope_theta": rope["rope_theta"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        **{name: text[name] for name in SHARED_FIELDS},
    }


def tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, LazyTensor]]:
    """(name in the text model, weights)."""
    for name in checkpoint:
        for prefix, replacement in PREFIXES.items():
            if name.startswith(prefix):
                yield replacement + name.removeprefix(prefix), checkpoint.tensor(name)


def write_bfloat16(tensor: LazyTensor, file: BinaryIO) -> None:
    """Appends the tensor a few rows at a time; other values than bfloat16 are truncated."""
    rows = max(1, PIECE_VALUES // int(np.prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], rows):
        values = np.ascontiguousarray(tensor.read(start, min(tensor.shape[0], start + rows)))
        file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())


def write_shard(path: Path, entries: list[tuple[str, LazyTensor]]) -> None:
    """One `.safetensors` file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in entries:
        size = 2 * int(np.prod(tensor.shape))
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in entries:
            write_bfloat16(tensor, file)


def write_text_model(source: Path, folder: Path) -> Path:
    """Writes the text model of the checkpoint `source` into `folder`; returns the folder."""
    checkpoint = Checkpoint(source)
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[tuple[str, LazyTensor]]] = [[]]
    filled = 0
    for name, tensor in tensors(checkpoint):
        size = 2 * int(np.prod(tensor.shape))
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append((name, tensor))
        filled += size
    weight_map: dict[str, str] = {}
    for number, entries in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, entries)
        weight_map.update({name: file for name, _ in entries})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    text = checkpoint.config["thinker_config"]["text_config"]
    (folder / "config.json").write_text(json.dumps(config(text, "lm_head.weight" not in weight_map), indent=1))
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    first = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"][0]["content"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": first, "model_max_length": 32768})
    )
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a Qwen2.5-Omni checkpoint")
    parser.add_argument("folder", type=Path, help="where the text model goes")
    arguments = parser.parse_args()
    print(write_text_model(arguments.checkpoint, arguments.folder))


if __name__ == "__main__":
    main()
