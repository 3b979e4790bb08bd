"""Writes a checkpoint of random weights in the published layout and the real sizes, shard by shard, in bounded memory.

    python benchmarks/random_checkpoint.py 3b /tmp/omni-3b          # 12 GB on disk, about 400 MB of memory

Speed and memory depend on the number of weights, not on their values. The tokenizer is a byte-level one. `--layers`
leaves out layers of both decoders, where the time of one layer is of interest and the disk is small.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

SHARD_BYTES = 4 << 30
POOL_VALUES = 1 << 24
# The reference requires it, and its configuration has no default.
VISION_START = 151652
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# The modules of the reference are nested one level deeper than the names in the published files.
PUBLISHED_NAMES = {
    "thinker.model.language_model.": "thinker.model.",
    "thinker.model.audio_tower.": "thinker.audio_tower.",
    "thinker.model.visual.": "thinker.visual.",
}
TEXT = {
    "3b": {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11008,
        "vocab_size": 151936,
    },
    "7b": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
}
TALKER = {
    "3b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 4864,
        "embedding_size": 2048,
        "mrope_section": [16, 16, 0],
    },
    "7b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 18944,
        "embedding_size": 3584,
        "mrope_section": [16, 24, 24],
    },
}


def configuration(size: str, layers: int | None = None) -> Qwen2_5OmniConfig:
    """The published sizes of the 3B or the 7B model.

    Args:
        size: "3b" or "7b".
        layers: the number of layers of both decoders; None: as published.
    """
    decoders = {"num_hidden_layers": layers} if layers else {}

    def rope(section: list[int]) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": section}

    text, talker = ({**sizes[size], **decoders} for sizes in (TEXT, TALKER))
    hidden = text["hidden_size"]
    return Qwen2_5OmniConfig(
        thinker_config={
            "text_config": {**text, "rope_parameters": rope([16, 24, 24]), "tie_word_embeddings": False},
            "audio_config": {"output_dim": hidden},
            "vision_config": {"hidden_size": 1280, "out_hidden_size": hidden},
            "vision_start_token_id": VISION_START,
        },
        talker_config={**talker, "rope_parameters": rope(talker.pop("mrope_section"))},
        token2wav_config={"dit_config": {}, "bigvgan_config": {}},
    )


def tensors(config: Qwen2_5OmniConfig) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """(published name, shape, dtype) of every weight; token2wav is float32, the rest bfloat16."""
    with torch.device("meta"):
        model = Qwen2_5OmniForConditionalGeneration(config)
    for name, parameter in model.named_parameters():
        published = name
        for nested, flat in PUBLISHED_NAMES.items():
            published = published.replace(nested, flat)
        yield published, tuple(parameter.shape), "F32" if name.startswith("token2wav") else "BF16"


class Weights:
    """Random values from a pool that is drawn once: a new offset for every tensor."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.pool = self.random.standard_normal(POOL_VALUES, np.float32)

    def values(self, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """The tensor's values in pieces of at most the pool's size; scaled so that activations keep unit variance."""
        count = int(np.prod(shape))
        scale, centre = (
            (0.02, 1.0 if name.endswith("weight") else 0.0)
            if len(shape) == 1
            else (
                int(np.prod(shape[1:])) ** -0.5,
                0.0,
            )
        )
        for start in range(0, count, POOL_VALUES):
            size = min(POOL_VALUES, count - start)
            offset = int(self.random.integers(0, POOL_VALUES - size + 1))
            yield self.pool[offset : offset + size] * np.float32(scale) + np.float32(centre)


def write_shard(path: Path, entries: list[tuple[str, tuple[int, ...], str]], weights: Weights) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype in entries:
        size = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape, dtype in entries:
            for piece in weights.values(name, shape):
                file.write((piece if dtype == "F32" else (piece.view(np.uint32) >> 16).astype(np.uint16)).tobytes())


def write_small_files(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    speakers = {
        name: {"bos_token": token, "cond": torch.randn(1, 192), "ref_mel": torch.randn(1, 300, 80)}
        for name, token in (("Chelsie", 151672), ("Ethan", 151673))
    }
    torch.save(speakers, folder / "spk_dict.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=sorted(TEXT))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="layers of Thinker and Talker; as published by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    config = configuration(arguments.size, arguments.layers)
    config.save_pretrained(folder)
    shards: list[list[tuple[str, tuple[int, ...], str]]] = [[]]
    filled = total = 0
    for entry in tensors(config):
        size = int(np.prod(entry[1])) * (4 if entry[2] == "F32" else 2)
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += size
        total += size
    weights = Weights(arguments.seed)
    weight_map = {}
    for number, entries in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / name, entries, weights)
        weight_map.update({entry[0]: name for entry in entries})
        print(name, flush=True)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    write_small_files(folder)


if __name__ == "__main__":
    main()
