"""The checkpoint's `config.json` as typed, normalised records: both spellings in, one out.

The published files say `rope_scaling`, `rope_theta`, `dim/depth/heads`; transformers 5 writes `rope_parameters`,
`hidden_size/num_hidden_layers/num_attention_heads`. Field defaults are those of the reference's configuration classes
(transformers `configuration_qwen2_5_omni.py`), which apply where a file leaves a key out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omni_edge.errors import CheckpointError


def _pick(raw: dict[str, Any], default: Any, *names: str) -> Any:
    """The value under the first of `names` that `raw` has and that is not null."""
    for name in names:
        if raw.get(name) is not None:
            return raw[name]
    return default


def _rope(raw: dict[str, Any]) -> dict[str, Any]:
    return {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}


@dataclass(frozen=True)
class DecoderConfig:
    """A Qwen2 decoder with multimodal rotary positions: the Thinker's text model and the Talker.

    `mrope_section` counts rotary pairs taken from time, height and width; it sums to `head_dim / 2`.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    max_positions: int

    @classmethod
    def parse(cls, raw: dict[str, Any], where: str) -> DecoderConfig:
        hidden, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
        head_dim = int(_pick(raw, hidden // heads, "head_dim"))
        rope = _rope(raw)
        kind = _pick(rope, "default", "rope_type", "type")
        if kind not in ("default", "mrope"):
            raise CheckpointError(f"{where} asks for rope type {kind!r}; supported are 'default' and 'mrope'.")
        if raw.get("use_sliding_window"):
            raise CheckpointError(f"{where} asks for sliding-window attention, which Qwen2.5-Omni does not use.")
        section = tuple(int(n) for n in rope.get("mrope_section", (16, 24, 24)))
        if len(section) != 3 or sum(section) != head_dim // 2:
            raise CheckpointError(
                f"{where}.mrope_section is {list(section)}: it must be three numbers that sum to head_dim / 2 = "
                f"{head_dim // 2}."
            )
        return cls(
            hidden_size=hidden,
            intermediate_size=int(raw["intermediate_size"]),
            num_layers=int(raw["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(_pick(raw, heads, "num_key_value_heads")),
            head_dim=head_dim,
            vocab_size=int(raw["vocab_size"]),
            rms_norm_eps=float(_pick(raw, 1e-6, "rms_norm_eps")),
            rope_theta=float(_pick(rope, _pick(raw, 1_000_000.0, "rope_theta"), "rope_theta")),
            mrope_section=(section[0], section[1], section[2]),
            max_positions=int(_pick(raw, 32768, "max_position_embeddings")),
        )


@dataclass(frozen=True)
class AudioConfig:
    """The audio encoder: two convolutions, then transformer layers within blocks of `2 * n_window` mel frames."""

    d_model: int = 1280
    encoder_layers: int = 32
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    num_mel_bins: int = 128
    max_source_positions: int = 1500
    n_window: int = 100
    output_dim: int = 3584


@dataclass(frozen=True)
class VisionConfig:
    """The vision encoder: windowed attention except in the layers of `fullatt_block_indexes`."""

    depth: int = 32
    hidden_size: int = 3584
    intermediate_size: int = 3420
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    out_hidden_size: int = 3584
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    rope_theta: float = 10_000.0


@dataclass(frozen=True)
class DiTConfig:
    """The flow-matching transformer of token2wav; `block_size` in mel frames."""

    hidden_size: int = 1024
    num_layers: int = 22
    num_heads: int = 16
    head_dim: int = 64
    ff_mult: int = 2
    emb_dim: int = 512
    block_size: int = 24
    look_ahead_layers: tuple[int, ...] = (10,)
    look_backward_layers: tuple[int, ...] = (0, 20)
    repeats: int = 2
    num_embeds: int = 8193
    mel_dim: int = 80
    rope_theta: float = 10_000.0
    enc_emb_dim: int = 192
    enc_dim: int = 128
    enc_channels: tuple[int, ...] = (256, 256, 256, 256, 768)
    enc_kernel_sizes: tuple[int, ...] = (5, 3, 3, 3, 1)
    enc_dilations: tuple[int, ...] = (1, 2, 3, 4, 1)
    enc_attention_channels: int = 64
    enc_res2net_scale: int = 2
    enc_se_channels: int = 64


@dataclass(frozen=True)
class BigVGANConfig:
    """The mel-to-waveform network of token2wav."""

    mel_dim: int = 80
    upsample_initial_channel: int = 1536
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    upsample_rates: tuple[int, ...] = (5, 3, 2, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (11, 7, 4, 4, 4, 4)


@dataclass(frozen=True)
class ThinkerConfig:
    """The Thinker with its encoders and the token ids that mark media in a prompt."""

    text: DecoderConfig
    audio: AudioConfig
    vision: VisionConfig
    audio_token: int
    image_token: int
    video_token: int
    audio_start_token: int
    audio_end_token: int
    vision_start_token: int
    vision_end_token: int
    position_id_per_seconds: int
    seconds_per_chunk: float


@dataclass(frozen=True)
class TalkerConfig:
    """The Talker; `embedding_size` is the Thinker's hidden size."""

    decoder: DecoderConfig
    embedding_size: int
    codec_start_token: int
    codec_end_token: int
    codec_pad_token: int
    codec_mask_token: int
    text_start_token: int
    text_end_token: int
    text_pad_token: int


@dataclass(frozen=True)
class OmniConfig:
    """Everything that the exporters need to know; `talker`, `dit` and `bigvgan` are None for a mute checkpoint."""

    thinker: ThinkerConfig
    talker: TalkerConfig | None
    dit: DiTConfig | None
    bigvgan: BigVGANConfig | None
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> OmniConfig:
        """Normalises a `config.json` object.

        Raises:
            CheckpointError: a key without a default is missing or a value contradicts another.
        """
        try:
            thinker = _thinker(raw["thinker_config"], raw.get("talker_config") or {})
            if not raw.get("enable_audio_output", True) or "talker_config" not in raw:
                return cls(thinker, None, None, None, raw)
            token2wav = raw["token2wav_config"]
            return cls(
                thinker,
                _talker(raw["talker_config"]),
                _dit(token2wav["dit_config"]),
                _fill(BigVGANConfig, token2wav["bigvgan_config"]),
                raw,
            )
        except KeyError as error:
            raise CheckpointError(f"config.json has no {error}. Is it the config of a Qwen2.5-Omni model?") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _fill(kind: type[Any], raw: dict[str, Any], **known: Any) -> Any:
    """`kind` from the keys of `raw` that carry its field names; `known` wins."""
    values = {name: _tuples(raw[name]) for name in kind.__dataclass_fields__ if raw.get(name) is not None}
    return kind(**{**values, **known})


def _thinker(raw: dict[str, Any], talker: dict[str, Any]) -> ThinkerConfig:
    audio = _fill(AudioConfig, raw["audio_config"])
    if audio.n_window % 2:
        raise CheckpointError(f"audio_config.n_window is {audio.n_window}; it must be even, or blocks would overlap.")
    vision_raw = raw["vision_config"]
    vision = _fill(
        VisionConfig,
        vision_raw,
        num_heads=int(_pick(vision_raw, 16, "num_heads", "num_attention_heads")),
        depth=int(_pick(vision_raw, 32, "depth", "num_hidden_layers")),
        in_channels=int(_pick(vision_raw, 3, "in_channels", "in_chans")),
        rope_theta=float(_rope(vision_raw).get("rope_theta", 10_000.0)),
    )
    # The reference's Thinker reads the vision marks from its config where they are present and the Talker always has
    # them: the published files agree.
    return ThinkerConfig(
        text=DecoderConfig.parse(raw["text_config"], "thinker_config.text_config"),
        audio=audio,
        vision=vision,
        audio_token=int(_pick(raw, 151646, "audio_token_index", "audio_token_id")),
        image_token=int(_pick(raw, 151655, "image_token_index", "image_token_id")),
        video_token=int(_pick(raw, 151656, "video_token_index", "video_token_id")),
        audio_start_token=int(_pick(raw, 151647, "audio_start_token_id")),
        audio_end_token=int(_pick(raw, 151648, "audio_end_token_id")),
        vision_start_token=int(_pick(raw, _pick(talker, 151652, "vision_start_token_id"), "vision_start_token_id")),
        vision_end_token=int(_pick(raw, _pick(talker, 151653, "vision_end_token_id"), "vision_end_token_id")),
        position_id_per_seconds=int(_pick(raw, 25, "position_id_per_seconds")),
        seconds_per_chunk=float(_pick(raw, 2, "seconds_per_chunk")),
    )


def _talker(raw: dict[str, Any]) -> TalkerConfig:
    return TalkerConfig(
        decoder=DecoderConfig.parse(raw, "talker_config"),
        embedding_size=int(raw["embedding_size"]),
        codec_start_token=int(_pick(raw, 8293, "tts_codec_start_token_id")),
        codec_end_token=int(_pick(raw, 8294, "tts_codec_end_token_id")),
        codec_pad_token=int(_pick(raw, 8292, "tts_codec_pad_token_id")),
        codec_mask_token=int(_pick(raw, 8296, "tts_codec_mask_token_id")),
        text_start_token=int(_pick(raw, 151860, "tts_text_start_token_id")),
        text_end_token=int(_pick(raw, 151861, "tts_text_end_token_id")),
        text_pad_token=int(_pick(raw, 151859, "tts_text_pad_token_id")),
    )


def _dit(raw: dict[str, Any]) -> DiTConfig:
    config: DiTConfig = _fill(
        DiTConfig,
        raw,
        hidden_size=int(_pick(raw, 1024, "hidden_size", "dim")),
        num_layers=int(_pick(raw, 22, "num_hidden_layers", "depth")),
        num_heads=int(_pick(raw, 16, "num_attention_heads", "heads")),
        rope_theta=float(_rope(raw).get("rope_theta", _pick(raw, 10_000.0, "rope_theta"))),
    )
    return config
