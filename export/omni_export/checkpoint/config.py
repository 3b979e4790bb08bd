"""The checkpoint's `config.json` as typed, normalised records: both spellings in, one out.

The published files say `rope_scaling`, `rope_theta`, `dim/depth/heads`; transformers 5 writes `rope_parameters`,
`hidden_size/num_hidden_layers/num_attention_heads`. Field defaults are those of the reference's configuration classes
(transformers `configuration_qwen2_5_omni.py`), which apply where a file leaves a key out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.json_object import JsonObject

_MROPE_SECTION = (16, 24, 24)
_ROPE_THETA = 1_000_000.0
_ENCODER_ROPE_THETA = 10_000.0


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
    def parse(cls, raw: JsonObject) -> DecoderConfig:
        hidden = raw.integer("hidden_size", minimum=1)
        heads = raw.integer("num_attention_heads", minimum=1)
        kv_heads = raw.integer("num_key_value_heads", default=heads, minimum=1)
        if heads % kv_heads:
            raise raw.wrong("num_key_value_heads", f"a divisor of num_attention_heads = {heads}")
        head_dim = raw.integer("head_dim", default=hidden // heads, minimum=2)
        rope = _rope(raw)
        kind = rope.text("rope_type", rope.text("type", "default"))
        if kind not in ("default", "mrope"):
            raise CheckpointError(
                f"{raw.named('rope_parameters')} has type {kind!r}; supported are 'default' and 'mrope'."
            )
        if raw.flag("use_sliding_window", False):
            raise CheckpointError(
                f"{raw.named('use_sliding_window')} is true: Qwen2.5-Omni does not use sliding-window attention."
            )
        section = rope.integers("mrope_section", _MROPE_SECTION)
        if len(section) != 3 or 2 * sum(section) != head_dim:
            raise CheckpointError(
                f"{raw.named('mrope_section')} is {list(section)}: it must be three numbers that sum to head_dim / 2 = "
                f"{head_dim / 2:g}."
            )
        return cls(
            hidden_size=hidden,
            intermediate_size=raw.integer("intermediate_size", minimum=1),
            num_layers=raw.integer("num_hidden_layers", minimum=1),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            vocab_size=raw.integer("vocab_size", minimum=1),
            rms_norm_eps=raw.number("rms_norm_eps", default=1e-6),
            rope_theta=rope.number("rope_theta", default=raw.number("rope_theta", default=_ROPE_THETA), minimum=1),
            mrope_section=(section[0], section[1], section[2]),
            max_positions=raw.integer("max_position_embeddings", default=32768, minimum=1),
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
    """A whole configuration; `talker`, `dit` and `bigvgan` are None where there is no speech."""

    thinker: ThinkerConfig
    talker: TalkerConfig | None
    dit: DiTConfig | None
    bigvgan: BigVGANConfig | None
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, raw: dict[str, Any], *, speech: bool = True) -> OmniConfig:
        """Normalises a `config.json` object.

        Args:
            raw: the object.
            speech: read the sections of the Talker and of token2wav, if there are any.

        Raises:
            CheckpointError: a key without a default is missing, or a value is wrong or contradicts another.
        """
        config = JsonObject(raw, "config.json")
        thinker = _thinker(config)
        if not speech or not config.flag("enable_audio_output", True) or "talker_config" not in config:
            return cls(thinker, None, None, None, raw)
        token2wav = config.section("token2wav_config")
        return cls(
            thinker,
            _talker(config.section("talker_config"), thinker),
            _dit(token2wav.section("dit_config")),
            _bigvgan(token2wav.section("bigvgan_config")),
            raw,
        )


def _rope(raw: JsonObject) -> JsonObject:
    """Both spellings of the rotary parameters as one object; transformers' own wins."""
    scaling, parameters = raw.optional_section("rope_scaling"), raw.optional_section("rope_parameters")
    own = {key: value for key, value in parameters.raw.items() if value is not None}
    return JsonObject({**scaling.raw, **own}, "config.json", raw.named("rope_parameters"))


def _thinker(config: JsonObject) -> ThinkerConfig:
    raw = config.section("thinker_config")
    audio_raw, vision_raw = raw.section("audio_config"), raw.section("vision_config")
    audio = audio_raw.fill(AudioConfig)
    if audio.n_window % 2:
        raise audio_raw.wrong("n_window", "even, or blocks would overlap")
    if audio.d_model % audio.encoder_attention_heads:
        raise audio_raw.wrong("d_model", f"a multiple of encoder_attention_heads = {audio.encoder_attention_heads}")
    vision = vision_raw.fill(
        VisionConfig,
        num_heads=vision_raw.integer("num_heads", "num_attention_heads", default=16, minimum=1),
        depth=vision_raw.integer("depth", "num_hidden_layers", default=32, minimum=1),
        in_channels=vision_raw.integer("in_channels", "in_chans", default=3, minimum=1),
        rope_theta=_rope(vision_raw).number("rope_theta", default=_ENCODER_ROPE_THETA, minimum=1),
    )
    merged = vision.patch_size * vision.spatial_merge_size
    if vision.window_size < merged:
        raise vision_raw.wrong("window_size", f"at least patch_size * spatial_merge_size = {merged}")
    text = DecoderConfig.parse(raw.section("text_config"))

    def token(*names: str, default: int) -> int:
        value = raw.integer(*names, default=default)
        if value >= text.vocab_size:
            raise CheckpointError(
                f"config.json: {raw.named(names[0])} is {value}, and text_config.vocab_size is {text.vocab_size}. "
                "The files do not belong together: download the checkpoint again."
            )
        return value

    def vision_mark(name: str, default: int) -> int:
        # The reference's Thinker reads them from its config where they are present, and the Talker always has them.
        if name in raw or "talker_config" not in config:
            return token(name, default=default)
        return token(name, default=config.section("talker_config").integer(name, default=default))

    return ThinkerConfig(
        text=text,
        audio=audio,
        vision=vision,
        audio_token=token("audio_token_index", "audio_token_id", default=151646),
        image_token=token("image_token_index", "image_token_id", default=151655),
        video_token=token("video_token_index", "video_token_id", default=151656),
        audio_start_token=token("audio_start_token_id", default=151647),
        audio_end_token=token("audio_end_token_id", default=151648),
        vision_start_token=vision_mark("vision_start_token_id", 151652),
        vision_end_token=vision_mark("vision_end_token_id", 151653),
        position_id_per_seconds=raw.integer("position_id_per_seconds", default=25, minimum=1),
        seconds_per_chunk=raw.number("seconds_per_chunk", default=2.0, minimum=1e-3),
    )


def _talker(raw: JsonObject, thinker: ThinkerConfig) -> TalkerConfig:
    embedding = raw.integer("embedding_size", minimum=1)
    if embedding != thinker.text.hidden_size:
        raise CheckpointError(
            f"config.json: {raw.named('embedding_size')} is {embedding}, and thinker_config.text_config.hidden_size is "
            f"{thinker.text.hidden_size}. They do not belong together: download the checkpoint again."
        )
    return TalkerConfig(
        decoder=DecoderConfig.parse(raw),
        embedding_size=embedding,
        codec_start_token=raw.integer("tts_codec_start_token_id", default=8293),
        codec_end_token=raw.integer("tts_codec_end_token_id", default=8294),
        codec_pad_token=raw.integer("tts_codec_pad_token_id", default=8292),
        codec_mask_token=raw.integer("tts_codec_mask_token_id", default=8296),
        text_start_token=raw.integer("tts_text_start_token_id", default=151860),
        text_end_token=raw.integer("tts_text_end_token_id", default=151861),
        text_pad_token=raw.integer("tts_text_pad_token_id", default=151859),
    )


def _dit(raw: JsonObject) -> DiTConfig:
    theta = raw.number("rope_theta", default=_ENCODER_ROPE_THETA, minimum=1)
    config: DiTConfig = raw.fill(
        DiTConfig,
        hidden_size=raw.integer("hidden_size", "dim", default=1024, minimum=1),
        num_layers=raw.integer("num_hidden_layers", "depth", default=22, minimum=1),
        num_heads=raw.integer("num_attention_heads", "heads", default=16, minimum=1),
        rope_theta=_rope(raw).number("rope_theta", default=theta, minimum=1),
    )
    for name in ("look_ahead_layers", "look_backward_layers"):
        if any(layer >= config.num_layers for layer in getattr(config, name)):
            raise raw.wrong(name, f"indices of the {config.num_layers} layers")
    lengths = {len(config.enc_channels), len(config.enc_kernel_sizes), len(config.enc_dilations)}
    if len(lengths) > 1 or not config.enc_channels:
        raise raw.wrong("enc_channels", "as long as enc_kernel_sizes and enc_dilations")
    return config


def _bigvgan(raw: JsonObject) -> BigVGANConfig:
    config: BigVGANConfig = raw.fill(BigVGANConfig)
    if len(config.upsample_rates) != len(config.upsample_kernel_sizes) or not config.upsample_rates:
        raise raw.wrong("upsample_rates", "as long as upsample_kernel_sizes")
    if len(config.resblock_kernel_sizes) != len(config.resblock_dilation_sizes) or not config.resblock_kernel_sizes:
        raise raw.wrong("resblock_kernel_sizes", "as long as resblock_dilation_sizes")
    return config
