"""omni-nano's architecture, and its checkpoint in the published layout.

Every width is a multiple of 64, so that INT4 groups of 32 or 64 fit. The checkpoint is at most 40 MB: Thinker and
Talker in bfloat16, token2wav in float32, as published. A training stage writes its part of the reference's state to
`WORK/weights/<part>.safetensors`. A missing part is random (seeded), so that the others can be exported without it.

    python -m nano.model.architecture --work nano-work --out nano-work/checkpoint
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

SEED = 20_250_326
SPEAKERS = {"Chelsie": "<tts_text_bos>", "Ethan": "<tts_text_bos_single>"}
SPEAKER_FILE = "spk_dict.pt"

# Codec tokens. As published, a gap lies between the codebook and the special tokens.
CODEBOOK = 512
CODEC_PAD, CODEC_START, CODEC_END, CODEC_MASK = CODEBOOK + 4, CODEBOOK + 5, CODEBOOK + 6, CODEBOOK + 8
CODEC_VOCABULARY = CODEBOOK + 64

# Not saved: the same tensor as the embedding.
_TIED = {"lm_head.weight"}

MEL_BINS = 80
SPEAKER_WIDTH = 192

# Prefixes of the parts in the reference's state.
PARTS = {
    "thinker": "thinker.",
    "talker": "talker.",
    "dit": "token2wav.code2wav_dit_model.",
    "bigvgan": "token2wav.code2wav_bigvgan_model.",
}

PUBLISHED_PREPROCESSOR: dict[str, Any] = {
    "chunk_length": 300,
    "dither": 0.0,
    "feature_size": 128,
    "hop_length": 160,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "n_fft": 400,
    "n_samples": 4800000,
    "nb_max_frames": 30000,
    "patch_size": 14,
    "sampling_rate": 16000,
    "temporal_patch_size": 2,
}
# Not published: the exporter uses it instead of the reference loader's 128 tokens per frame pair.
PREPROCESSOR = {**PUBLISHED_PREPROCESSOR, "video_min_pixels": PUBLISHED_PREPROCESSOR["min_pixels"]}

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CARD = """---
license: apache-2.0
language: en
---

# omni-nano

A demonstration and test model with the architecture and checkpoint layout of Qwen2.5-Omni, trained from nothing on
synthetic data for a small closed world. These are not Qwen's weights. How it was made and what it can do: `nano/` of
the omni-edge repository.
"""


def make_config(tokenizer: Tokenizer) -> Qwen2_5OmniConfig:
    """The configuration; special ids and the vocabulary are the tokenizer's."""

    def token(name: str) -> int:
        value = tokenizer.token_to_id(name)
        if value is None:
            raise ValueError(f"the tokenizer has no {name!r}: train it again")
        return int(value)

    # A smaller base than published: contexts have hundreds of positions, and rows of a picture must differ. The slowest
    # angle of the time section turns once in three seconds, so that it separates the seconds of a video.
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [10, 11, 11]}
    media = {
        "audio_token_index": token("<|AUDIO|>"),
        "image_token_index": token("<|IMAGE|>"),
        "video_token_index": token("<|VIDEO|>"),
        "audio_start_token_id": token("<|audio_bos|>"),
        "audio_end_token_id": token("<|audio_eos|>"),
        "vision_start_token_id": token("<|vision_bos|>"),
        "vision_end_token_id": token("<|vision_eos|>"),
    }
    hidden = 256
    decoder = {
        "hidden_size": hidden,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "rope_parameters": rope,
        "max_position_embeddings": 32768,
    }
    return Qwen2_5OmniConfig(
        thinker_config={
            "text_config": {
                **decoder,
                "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
                "intermediate_size": 768,
                "tie_word_embeddings": True,
            },
            "audio_config": {
                "encoder_layers": 4,
                "d_model": 192,
                "encoder_attention_heads": 3,
                "encoder_ffn_dim": 768,
                "output_dim": hidden,
            },
            "vision_config": {
                "depth": 4,
                "hidden_size": 128,
                "num_heads": 2,
                "intermediate_size": 384,
                "out_hidden_size": hidden,
                "fullatt_block_indexes": [1, 3],
            },
            **media,
            "tie_word_embeddings": True,
        },
        talker_config={
            **decoder,
            **media,
            "vocab_size": CODEC_VOCABULARY,
            "embedding_size": hidden,
            "intermediate_size": 512,
            "tts_text_start_token_id": token("<tts_text_bos>"),
            "tts_text_end_token_id": token("<tts_text_eod>"),
            "tts_text_pad_token_id": token("<tts_pad>"),
            "tts_codec_start_token_id": CODEC_START,
            "tts_codec_end_token_id": CODEC_END,
            "tts_codec_pad_token_id": CODEC_PAD,
            "tts_codec_mask_token_id": CODEC_MASK,
        },
        token2wav_config=TOKEN2WAV,
    )


# In float32: about half of the checkpoint.
TOKEN2WAV: dict[str, Any] = {
    "dit_config": {
        "hidden_size": 192,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "head_dim": 64,
        "ff_mult": 2,
        "emb_dim": 128,
        "num_embeds": CODEBOOK + 1,
        "enc_channels": [64, 64, 64, 64, 192],
        "enc_attention_channels": 32,
        "enc_se_channels": 32,
        "enc_emb_dim": SPEAKER_WIDTH,
        "block_size": 24,
        "look_ahead_layers": [2],
        "look_backward_layers": [0, 4],
        "mel_dim": MEL_BINS,
    },
    "bigvgan_config": {"upsample_initial_channel": 128, "mel_dim": MEL_BINS},
}


def weights_file(work: Path, part: str) -> Path:
    """The file of the state of `part` (a key of PARTS); names are those of the reference's submodule."""
    return work / "weights" / f"{part}.safetensors"


def save_part(work: Path, part: str, state: dict[str, torch.Tensor]) -> None:
    """Writes a stage's result in one step: a reader gets the old or the new file."""
    path = weights_file(work, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    # Tied tensors share memory, which the format refuses.
    save_file({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}, partial)
    partial.replace(path)


def load_part(work: Path, part: str) -> dict[str, torch.Tensor] | None:
    """The state that `save_part` wrote, or None."""
    path = weights_file(work, part)
    return load_file(path) if path.exists() else None


def load_tokenizer(work: Path) -> Tokenizer:
    """The tokenizer that the data stage trained."""
    return Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))


def empty_model(config: Qwen2_5OmniConfig) -> Qwen2_5OmniForConditionalGeneration:
    """The reference with seeded random weights, float32."""
    torch.manual_seed(SEED)
    return Qwen2_5OmniForConditionalGeneration(config)


def write_checkpoint(work: Path, out: Path) -> list[str]:
    """Writes the parts of `work` in the published layout.

    Returns:
        the parts that are not trained yet.

    Raises:
        RuntimeError: a part does not have the shapes of `make_config`.
    """
    tokenizer = load_tokenizer(work)
    config = make_config(tokenizer)
    model = empty_model(config)
    missing = []
    for part, prefix in PARTS.items():
        state = load_part(work, part)
        if state is None:
            missing.append(part)
        else:
            lacking, surplus = model.get_submodule(prefix.rstrip(".")).load_state_dict(state, strict=False)
            if surplus or set(lacking) - _TIED:
                raise RuntimeError(f"{part} does not fit: {surplus} too many, {lacking} missing; train it again")
    model.thinker.tie_weights()
    model.to(torch.bfloat16)
    model.token2wav.float()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    _write_texts(tokenizer, out)
    speakers = work / "weights" / SPEAKER_FILE
    if not speakers.exists():
        missing.append("speakers")
    entries = torch.load(speakers, weights_only=True) if speakers.exists() else _random_speakers(tokenizer)
    torch.save(entries, out / SPEAKER_FILE)
    return missing


def _write_texts(tokenizer: Tokenizer, out: Path) -> None:
    ends = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    files = {
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2TokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
        },
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
        "preprocessor_config.json": PREPROCESSOR,
        "generation_config.json": {"eos_token_id": ends, "pad_token_id": ends[1]},
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=1) + "\n")
    (out / "README.md").write_text(CARD)


def _random_speakers(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """Random voices with the published names."""
    generator = torch.Generator().manual_seed(SEED)
    return {
        name: {
            "bos_token": tokenizer.token_to_id(token),
            "cond": torch.randn(1, SPEAKER_WIDTH, generator=generator),
            "ref_mel": torch.randn(1, 100, MEL_BINS, generator=generator),
        }
        for name, token in SPEAKERS.items()
    }


def main() -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    missing = write_checkpoint(arguments.work, arguments.out)
    size = sum(file.stat().st_size for file in arguments.out.iterdir())
    print(f"{arguments.out}: {size / 1e6:.1f} MB; not trained: {', '.join(missing) or 'nothing'}")


if __name__ == "__main__":
    main()
