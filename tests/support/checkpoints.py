"""Small random checkpoints in the published layout, written by the reference implementation itself.

Three shapes that differ wherever a checkpoint may: head counts and grouping, tied or untied output embeddings, a zero
in `mrope_section`, dimensions that are no multiple of 32, float32 or bfloat16, one file or shards, both spellings of
the config. Weights are drawn so that activations stay near unit variance: with the library's default initialisation
attention would be almost uniform and a wrong mask would go unnoticed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
    "<tts_pad>",
    "<tts_text_bos>",
    "<tts_text_eod>",
    "<tts_text_bos_single>",
]
FIRST_SPECIAL = 256
SPECIAL = {token: FIRST_SPECIAL + index for index, token in enumerate(SPECIAL_TOKENS)}
VOCABULARY = 280

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif content['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif content['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Case:
    """One test checkpoint: its shape's name and its folder."""

    name: str
    path: Path


@dataclass(frozen=True)
class Shape:
    """What sets one test checkpoint apart."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mrope: tuple[int, int, int]
    tied: bool
    talker_hidden: int
    talker_heads: int
    talker_kv_heads: int
    talker_head_dim: int
    talker_mrope: tuple[int, int, int]
    audio_width: int
    vision_width: int
    dit_width: int
    dit_heads: int
    dtype: str
    shards: bool
    published_spelling: bool
    seed: int
    # 0: not a multiple of a power of two.
    intermediate: int = 0


SHAPES = {
    # tied, groups of 2, one file, float32, transformers' spelling
    "grouped": Shape(64, 4, 2, 16, (2, 3, 3), True, 48, 2, 1, 16, (4, 4, 0), 32, 32, 64, 2, "float32", False, False, 1),
    # untied, no grouping, widths that are no multiple of 32 (nor head_dim of 16), bf16 shards, published spelling
    "ragged": Shape(84, 3, 3, 28, (4, 5, 5), False, 60, 6, 2, 20, (5, 5, 0), 36, 40, 48, 3, "bfloat16", True, True, 2),
    # groups of 3, no time axis in the Thinker's rotary sections, shards, float32
    "sectionless": Shape(
        96, 3, 1, 32, (0, 8, 8), False, 32, 3, 3, 16, (2, 3, 3), 48, 48, 32, 2, "float32", True, False, 3
    ),
}

SPEAKERS = {"Chelsie": "<tts_text_bos>", "Ethan": "<tts_text_bos_single>"}
CODEC_VOCABULARY = 70
CODEC_SPECIAL = {"pad": 60, "start": 61, "end": 62, "mask": 63}


def config_of(shape: Shape) -> Qwen2_5OmniConfig:
    """The reference's configuration for `shape`."""
    from transformers import Qwen2_5OmniConfig

    def rope(section: tuple[int, int, int]) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": list(section)}

    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate or shape.hidden + 24,
        "num_hidden_layers": 2,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "rope_parameters": rope(shape.mrope),
        "tie_word_embeddings": shape.tied,
    }
    return Qwen2_5OmniConfig(
        thinker_config={
            "text_config": text,
            "audio_config": {
                "encoder_layers": 2,
                "d_model": shape.audio_width,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": shape.audio_width + 20,
                "output_dim": shape.hidden,
            },
            "vision_config": {
                "depth": 3,
                "hidden_size": shape.vision_width,
                "num_heads": 2,
                "intermediate_size": shape.vision_width + 12,
                "out_hidden_size": shape.hidden,
                "fullatt_block_indexes": [1],
            },
            "audio_token_index": SPECIAL["<|AUDIO|>"],
            "image_token_index": SPECIAL["<|IMAGE|>"],
            "video_token_index": SPECIAL["<|VIDEO|>"],
            "audio_start_token_id": SPECIAL["<|audio_bos|>"],
            "audio_end_token_id": SPECIAL["<|audio_eos|>"],
            "vision_start_token_id": SPECIAL["<|vision_bos|>"],
            "vision_end_token_id": SPECIAL["<|vision_eos|>"],
            "tie_word_embeddings": shape.tied,
        },
        talker_config={
            "vocab_size": CODEC_VOCABULARY,
            "hidden_size": shape.talker_hidden,
            "embedding_size": shape.hidden,
            "intermediate_size": shape.talker_hidden + 8,
            "num_hidden_layers": 2,
            "num_attention_heads": shape.talker_heads,
            "num_key_value_heads": shape.talker_kv_heads,
            "head_dim": shape.talker_head_dim,
            "rope_parameters": rope(shape.talker_mrope),
            "audio_token_index": SPECIAL["<|AUDIO|>"],
            "image_token_index": SPECIAL["<|IMAGE|>"],
            "video_token_index": SPECIAL["<|VIDEO|>"],
            "audio_start_token_id": SPECIAL["<|audio_bos|>"],
            "audio_end_token_id": SPECIAL["<|audio_eos|>"],
            "vision_start_token_id": SPECIAL["<|vision_bos|>"],
            "vision_end_token_id": SPECIAL["<|vision_eos|>"],
            "tts_text_start_token_id": SPECIAL["<tts_text_bos>"],
            "tts_text_end_token_id": SPECIAL["<tts_text_eod>"],
            "tts_text_pad_token_id": SPECIAL["<tts_pad>"],
            "tts_codec_start_token_id": CODEC_SPECIAL["start"],
            "tts_codec_end_token_id": CODEC_SPECIAL["end"],
            "tts_codec_pad_token_id": CODEC_SPECIAL["pad"],
            "tts_codec_mask_token_id": CODEC_SPECIAL["mask"],
        },
        token2wav_config={
            "dit_config": {
                "hidden_size": shape.dit_width,
                "num_hidden_layers": 4,
                "num_attention_heads": shape.dit_heads,
                "head_dim": 16,
                "emb_dim": 24,
                "num_embeds": CODEC_VOCABULARY,
                "enc_channels": [16, 16, 16, 16, 48],
                "enc_attention_channels": 12,
                "enc_se_channels": 12,
                "look_ahead_layers": [2],
                "look_backward_layers": [0, 3],
            },
            "bigvgan_config": {"upsample_initial_channel": 128},
        },
    )


def _randomize(model: torch.nn.Module, seed: int, tied: bool) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.randn(tensor.shape, generator=generator) * scale

    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith(("alpha", "beta")):
                parameter.copy_(normal(parameter, 0.3))
            elif parameter.ndim == 1 and name.endswith("weight"):
                parameter.copy_(1 + normal(parameter, 0.1))
            elif parameter.ndim == 1:
                parameter.copy_(normal(parameter, 0.1))
            elif name.endswith("conv_post.weight"):
                # Quiet enough that the waveform is hardly ever clipped.
                parameter.copy_(normal(parameter, 0.1 * parameter[0].numel() ** -0.5))
            elif name.endswith(("embed_tokens.weight", "codec_embed.weight")):
                # Where the output head is the same table, a large one would only ever repeat the last token.
                parameter.copy_(normal(parameter, 0.15 if tied and name.startswith("thinker") else 1.0))
            else:
                parameter.copy_(normal(parameter, parameter[0].numel() ** -0.5))


def _publish_spelling(path: Path) -> None:
    """Rewrites config.json as the published checkpoints spell it."""
    config = json.loads((path / "config.json").read_text())
    for part in (config["thinker_config"]["text_config"], config["talker_config"]):
        rope = part.pop("rope_parameters")
        part["rope_scaling"] = {"mrope_section": rope["mrope_section"], "rope_type": "default", "type": "default"}
        part["rope_theta"] = rope["rope_theta"]
    dit = config["token2wav_config"]["dit_config"]
    for new, published in (("hidden_size", "dim"), ("num_hidden_layers", "depth"), ("num_attention_heads", "heads")):
        dit[published] = dit.pop(new)
    dit.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    (path / "config.json").write_text(json.dumps(config, indent=1))


def write_tokenizer(path: Path) -> None:
    """A byte-level vocabulary without merges: every byte a token, then the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    )


def write_checkpoint(path: Path, name: str = "grouped", shape: Shape | None = None) -> Path:
    """Writes the checkpoint `name` of SHAPES, or one of another `shape`, into `path` (created) and returns it."""
    import torch
    from transformers import Qwen2_5OmniForConditionalGeneration

    from nano.model.architecture import PUBLISHED_PREPROCESSOR

    shape = shape or SHAPES[name]
    path.mkdir(parents=True, exist_ok=True)
    model = Qwen2_5OmniForConditionalGeneration(config_of(shape))
    _randomize(model, shape.seed, shape.tied)
    if shape.tied:
        model.thinker.tie_weights()
    model.to(getattr(torch, shape.dtype))
    model.token2wav.float()
    model.save_pretrained(path, max_shard_size="300KB" if shape.shards else "1GB")
    if shape.published_spelling:
        _publish_spelling(path)
    write_tokenizer(path)
    (path / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    (path / "preprocessor_config.json").write_text(json.dumps(PUBLISHED_PREPROCESSOR))
    (path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [SPECIAL["<|im_end|>"], SPECIAL["<|endoftext|>"]], "pad_token_id": 256})
    )
    generator = torch.Generator().manual_seed(shape.seed)
    speakers = {
        speaker: {
            "bos_token": SPECIAL[token],
            "cond": torch.randn(1, 192, generator=generator),
            "ref_mel": torch.randn(1, 60, 80, generator=generator),
        }
        for speaker, token in SPEAKERS.items()
    }
    torch.save(speakers, path / "spk_dict.pt")
    return path


def load_reference(path: Path, name: str) -> Qwen2_5OmniForConditionalGeneration:
    """The oracle: the checkpoint in the reference implementation, float32.

    The configuration is passed in because transformers 5.23 does not read the published spelling of the DiT's sizes:
    it falls back to its defaults, which are right for the published checkpoints alone.
    """
    import torch
    from transformers import Qwen2_5OmniForConditionalGeneration

    model = Qwen2_5OmniForConditionalGeneration.from_pretrained(
        path, config=config_of(SHAPES[name]), dtype=torch.float32
    )
    model.token2wav.float()
    return model.eval()
