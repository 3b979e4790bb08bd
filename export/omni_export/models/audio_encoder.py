"""The audio encoder's graph: mel blocks -> embeds (reference: `Qwen2_5OmniAudioEncoder`).

    mel [blocks, mels, frames] -> conv, GELU -> conv (stride 2), GELU -> + sinusoids -> layers -> mean of pairs
        -> norm -> projection -> embeds [blocks, tokens, hidden]

Nothing crosses a block. Blocks of one length are a batch; a shorter block is a run of its own and needs no mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.bundle.manifest import AudioSection
from omni_edge.errors import CheckpointError
from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import AudioConfig
from omni_export.graph.builder import GraphBuilder
from omni_export.graph.function import CONTRIB
from omni_quant.policy import formats
from omni_quant.precision import Precision

ROLE = "audio_encoder"
PREFIX = "thinker.audio_tower"

# Strides of the second convolution and of the pooling, from the reference's code: its configuration lacks them.
_CONV_STRIDE = 2
_POOL = 2
_KERNEL = 3
_MAX_TIMESCALE = 10_000
# What the reference's feature extractor (WhisperFeatureExtractor) assumes where preprocessor_config.json is silent.
_SAMPLE_RATE = 16_000
_N_FFT = 400
_HOP_LENGTH = 160


def section(config: AudioConfig, preprocessor: dict[str, Any]) -> AudioSection:
    """The manifest's audio section.

    Args:
        config: the encoder's sizes.
        preprocessor: `preprocessor_config.json`; {} takes the reference's defaults.

    Raises:
        CheckpointError: the preprocessor's mel bins are not those of the encoder.
    """
    n_mels = int(preprocessor.get("feature_size") or config.num_mel_bins)
    if n_mels != config.num_mel_bins:
        raise CheckpointError(
            f"preprocessor_config.json has feature_size {n_mels}, audio_config.num_mel_bins is {config.num_mel_bins}. "
            "The files do not belong together: download the checkpoint again."
        )
    return AudioSection(
        sample_rate=int(preprocessor.get("sampling_rate") or _SAMPLE_RATE),
        n_fft=int(preprocessor.get("n_fft") or _N_FFT),
        hop_length=int(preprocessor.get("hop_length") or _HOP_LENGTH),
        n_mels=n_mels,
        block_frames=2 * config.n_window,
    )


def sinusoids(length: int, channels: int) -> NDArray[np.float32]:
    """Position embeddings float32 [length, channels]: sines, then cosines (`SinusoidsPositionEmbedding`)."""
    increment = np.log(_MAX_TIMESCALE) / (channels // 2 - 1)
    frequencies = np.exp(np.float32(-increment) * np.arange(channels // 2, dtype=np.float32))
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def build(weights: Scope, config: AudioConfig, precision: Precision) -> GraphBuilder:
    """The graph `audio_encoder`.

    Input: `mel` float32 [blocks, mels, frames], 1 <= frames <= 2 * n_window; from 3 frames on there is a token.
    Output: `embeds` float32 [blocks, tokens, output_dim], tokens = ((frames - 1) // 2 + 1) // 2.

    Args:
        weights: the checkpoint's part below `PREFIX`.
        config: the encoder's sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.

    Raises:
        CheckpointError: a weight is missing, or heads or positions do not divide the width.
    """
    width, heads = config.d_model, config.encoder_attention_heads
    if width % heads or width % 2:
        raise CheckpointError(f"audio_config.d_model is {width}: it must be even and a multiple of its {heads} heads.")
    graph = GraphBuilder(ROLE, formats(ROLE, precision))
    mel = graph.input("mel", ["blocks", config.num_mel_bins, "frames"])
    x = _front(graph, weights, config, mel)
    for layer in range(config.encoder_layers):
        x = _layer(graph, weights.scope(f"layers.{layer}"), config, x, f"/audio/layers.{layer}")
    x = _pool(graph, x, "/audio/pool")
    x = graph.layer_norm(x, weights("ln_post.weight", (width,)), weights("ln_post.bias", (width,)), "/audio/ln_post")
    x = _linear(graph, weights.scope("proj"), x, "/audio/proj", (config.output_dim, width))
    graph.output(x, "embeds", ["blocks", "tokens", config.output_dim])
    return graph


def _front(graph: GraphBuilder, weights: Scope, config: AudioConfig, mel: str) -> str:
    width = config.d_model
    x = mel
    for name, channels, stride in (("conv1", config.num_mel_bins, 1), ("conv2", width, _CONV_STRIDE)):
        path = f"/audio/{name}"
        kernel = graph.weight(weights(f"{name}.weight", (width, channels, _KERNEL)), f"{path}.weight")
        bias = graph.weight(weights(f"{name}.bias", (width,)), f"{path}.bias")
        padding = _KERNEL // 2
        x = graph.op("Conv", [x, kernel, bias], path, pads=[padding, padding], strides=[stride])
        x = graph.op("Gelu", [x], path)
    x = graph.op("Transpose", [x], "/audio/rows", perm=[0, 2, 1])
    positions = graph.const(sinusoids(2 * config.n_window // _CONV_STRIDE, width), "/audio/positions.table")
    length = graph.op("Shape", [x], "/audio/positions/length", start=1, end=2)
    positions = graph.op("Slice", [positions, graph.const([0]), length, graph.const([0])], "/audio/positions")
    return graph.op("Add", [x, positions], "/audio/positions")


def _linear(graph: GraphBuilder, part: Scope, x: str, path: str, shape: tuple[int, int], *, bias: bool = True) -> str:
    return graph.linear(x, part("weight", shape), path, "matrices", bias=part("bias", shape[:1]) if bias else None)


def _layer(graph: GraphBuilder, part: Scope, config: AudioConfig, x: str, path: str) -> str:
    width, wide = config.d_model, config.encoder_ffn_dim

    def norm(value: str, name: str) -> str:
        scale, shift = part(f"{name}.weight", (width,)), part(f"{name}.bias", (width,))
        return graph.layer_norm(value, scale, shift, f"{path}/{name}")

    normed = norm(x, "self_attn_layer_norm")
    # Three products are as fast as one and a Split (measured), and k has no bias.
    q, k, v = (
        _linear(
            graph, part.scope(f"self_attn.{n}"), normed, f"{path}/self_attn/{n}", (width, width), bias=n != "k_proj"
        )
        for n in ("q_proj", "k_proj", "v_proj")
    )
    attended = graph.op(
        "MultiHeadAttention",
        [q, k, v],
        f"{path}/self_attn",
        domain=CONTRIB,
        num_heads=config.encoder_attention_heads,
    )
    out = _linear(graph, part.scope("self_attn.out_proj"), attended, f"{path}/self_attn/out_proj", (width, width))
    x = graph.op("Add", [x, out], f"{path}/self_attn/residual")
    h = norm(x, "final_layer_norm")
    h = graph.op("Gelu", [_linear(graph, part.scope("fc1"), h, f"{path}/fc1", (wide, width))], f"{path}/fc1")
    h = _linear(graph, part.scope("fc2"), h, f"{path}/fc2", (width, wide))
    return graph.op("Add", [x, h], f"{path}/fc2/residual")


def _pool(graph: GraphBuilder, x: str, path: str) -> str:
    """The means of pairs of rows; an odd last row is dropped."""
    axes, steps = graph.const([1]), graph.const([_POOL])
    # The first slice ends before the last row: it then has as many rows as the second, whatever the length.
    first = graph.op("Slice", [x, graph.const([0]), graph.const([-1]), axes, steps], f"{path}/first")
    end = graph.const([np.iinfo(np.int64).max])
    second = graph.op("Slice", [x, graph.const([1]), end, axes, steps], f"{path}/second")
    total = graph.op("Add", [first, second], path)
    return graph.op("Mul", [total, graph.const(1 / _POOL)], path)
