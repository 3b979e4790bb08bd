"""The Thinker step and the Talker step: a Qwen2 decoder over a shared, fixed-capacity KV cache.

One graph serves prefill (many positions) and decode (one position):

- A layer is one operator (`decoder_layer`). Its attention rotates Q and K, and appends to the cache. It does so in
  place where past and present are bound to the same memory.
- The cos and sin tables are graph inputs, indexed by cache slot. The runtime's rows mix time, height and width angles
  already, so the graph needs nothing for TMRoPE.
- The output head is applied to the last position only.

Source: transformers `Qwen2_5OmniThinkerTextModel`, `Qwen2_5OmniTalkerForConditionalGeneration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from omni_edge.bundle.manifest import DecoderSection, TalkerSection
from omni_export.checkpoint.checkpoint import Scope
from omni_export.checkpoint.config import DecoderConfig, TalkerConfig
from omni_export.checkpoint.lazy_tensor import Array, LazyTensor
from omni_export.graph.builder import GraphBuilder, Shape
from omni_export.models.decoder_layer import (
    MATRICES,
    cached_attention,
    decoder_layer,
    has_float16_kernel,
    matrix_inputs,
)
from omni_export.models.decoder_weights import DecoderWeights, LayerWeights, padded_head_dim
from omni_export.models.layer_nodes import layer_nodes
from omni_quant.policy import decoder_part, formats
from omni_quant.precision import Kind, Precision, WeightFormat

THINKER = "thinker"
TALKER = "talker"
TOKEN_EMBEDDING = "token_embedding"
# Paths of the output heads.
THINKER_HEAD = "/lm_head"
TALKER_HEAD = "/codec_head"


@dataclass(frozen=True)
class CacheScales:
    """Quantization steps of an INT8 cache, one per channel.

    Attributes:
        keys: float32 [layers, kv_heads * head_dim], of rotated keys.
        values: float32 [layers, kv_heads * head_dim].
    """

    keys: Array
    values: Array


def section(config: DecoderConfig, *, int8_cache: bool = False) -> DecoderSection:
    """The manifest's section of a decoder."""
    return DecoderSection(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=padded_head_dim(config),
        rotary_dim=config.head_dim,
        rope_theta=config.rope_theta,
        mrope_section=config.mrope_section,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        cache_dtype="int8" if int8_cache else "float32",
    )


def talker_section(config: TalkerConfig) -> TalkerSection:
    """The manifest's section of the Talker; `none_codec` is the row after the vocabulary, all zeros."""
    return TalkerSection(
        codec_start=config.codec_start_token,
        codec_end=config.codec_end_token,
        codec_pad=config.codec_pad_token,
        codec_mask=config.codec_mask_token,
        none_codec=config.decoder.vocab_size,
        text_end_token=config.text_end_token,
        text_pad_token=config.text_pad_token,
    )


def build_thinker(
    weights: Scope, config: DecoderConfig, precision: Precision, cache_scales: CacheScales | None = None
) -> GraphBuilder:
    """The graph `thinker`: one step of the Thinker.

    Inputs: `embeds` float32 [1, S, hidden], cache and tables (see `_Layers`).
    Outputs: `hidden` float32 [1, S, hidden] after the final norm; `logits` float32 [1, 1, vocabulary] of the last
        position.

    Args:
        weights: the checkpoint's part below `thinker`.
        config: the decoder's sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.
        cache_scales: make the cache INT8. The large weights are the same with and without them.
    """
    graph = GraphBuilder(THINKER, formats(THINKER, precision))
    embeds = graph.input("embeds", [1, "S", config.hidden_size])
    hidden = _Layers(graph, weights.scope("model"), config, cache_scales).build(embeds)
    _outputs(graph, hidden, thinker_head(weights, config), THINKER_HEAD)
    return graph


def thinker_head(weights: Scope, config: DecoderConfig) -> LazyTensor:
    """The Thinker's output head, [vocabulary, hidden]. Where a checkpoint stores none, it is the embedding table."""
    name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    return weights(name, (config.vocab_size, config.hidden_size))


def build_talker(weights: Scope, config: TalkerConfig, precision: Precision) -> GraphBuilder:
    """The graph `talker`: one step of the Talker.

    Inputs: `codec_ids` int64 [1, S], `none_codec` where a position has no codec token; `states` float32
        [1, S, embedding], the Thinker's embedding + hidden of each position; cache and tables (see `_Layers`).
    Outputs: `hidden` float32 [1, S, hidden] after the final norm; `logits` float32 [1, 1, vocabulary] of the last
        position.

    Args:
        weights: the checkpoint's part below `talker`.
        config: the Talker's sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.
    """
    decoder = config.decoder
    graph = GraphBuilder(TALKER, formats(TALKER, precision))
    projected = talker_input(graph, weights, config)
    hidden = _Layers(graph, weights.scope("model"), decoder).build(projected)
    _outputs(graph, hidden, talker_head(weights, decoder), TALKER_HEAD)
    return graph


def talker_input(graph: GraphBuilder, weights: Scope, config: TalkerConfig) -> str:
    """Adds the inputs `codec_ids` and `states` of the Talker; returns what enters its first layer."""
    ids = graph.input("codec_ids", [1, "S"], "int64")
    states = graph.input("states", [1, "S", config.embedding_size])
    table = weights("model.embed_tokens.weight", (config.decoder.vocab_size, config.embedding_size))
    nothing = LazyTensor.wrap(np.zeros((1, config.embedding_size), np.float32), "no codec token")
    codec = graph.embedding(ids, LazyTensor.stack([table, nothing]), "/embed_tokens", "codec_table")
    return graph.linear(
        graph.op("Add", [codec, states], "/embed_tokens"),
        weights("thinker_to_talker_proj.weight", (config.decoder.hidden_size, config.embedding_size)),
        "/thinker_to_talker_proj",
        "projection",
        bias=weights("thinker_to_talker_proj.bias"),
    )


def talker_head(weights: Scope, config: DecoderConfig) -> LazyTensor:
    """The Talker's output head, [vocabulary, hidden]."""
    return weights("codec_head.weight", (config.vocab_size, config.hidden_size))


def build_token_embedding(weights: Scope, config: DecoderConfig, precision: Precision) -> GraphBuilder:
    """The graph `token_embedding`: `ids` int64 [1, S] -> `embeds` float32 [1, S, hidden].

    Args:
        weights: the checkpoint's part below `thinker.model`.
        config: the decoder's sizes.
        precision: what the export asks for; `omni_quant.policy` says what becomes of it.
    """
    graph = GraphBuilder(TOKEN_EMBEDDING, formats(TOKEN_EMBEDDING, precision))
    ids = graph.input("ids", [1, "S"], "int64")
    table = weights("embed_tokens.weight", (config.vocab_size, config.hidden_size))
    embeds = graph.embedding(ids, table, "/embed_tokens", "table")
    graph.output(embeds, "embeds", [1, "S", config.hidden_size])
    return graph


def norm_names(layer: int, config: DecoderConfig) -> tuple[str, str]:
    """Paths of a layer's two norms: that behind attention, and that of the next layer or of the output head."""
    last = layer == config.num_layers - 1
    return f"/layers.{layer}/post_attn_norm", "/norm" if last else f"/layers.{layer + 1}/input_norm"


def matrix_parts(layer: int, config: DecoderConfig) -> dict[str, str]:
    """Name of a layer's matrix -> the part of the graph that it belongs to."""
    return {name: decoder_part(layer, config.num_layers, name) for name in MATRICES}


def _outputs(graph: GraphBuilder, hidden: str, head: LazyTensor, name: str) -> None:
    ends = [graph.const(np.array([value], np.int64)) for value in (-1, np.iinfo(np.int64).max, 1)]
    last = graph.op("Slice", [hidden, *ends], f"{name}/last")
    logits = graph.linear(last, head, name, "head")
    graph.output(hidden, "hidden", [1, "S", head.shape[1]])
    graph.output(logits, "logits", [1, 1, head.shape[0]])


class _Layers:
    """The decoder layers of one model, with the graph inputs that they share.

    Inputs:
        past.{i}.key, past.{i}.value: float32 or int8 [1, kv_heads, capacity, head_dim], the cache of layer i.
        last_slot: int32 [1], the slot of the last position of this call.
        total: int32 [1], positions in the cache after this call.
        cos, sin: float32 [capacity, head_dim / 2], one row per slot.

    Outputs:
        present.{i}.key, present.{i}.value: the cache of layer i after this call, as the past.
    """

    def __init__(
        self, graph: GraphBuilder, weights: Scope, config: DecoderConfig, cache_scales: CacheScales | None = None
    ) -> None:
        self.graph = graph
        self.config = config
        self.cache_scales = cache_scales
        self.cache_dtype = "int8" if cache_scales else "float32"
        self.stored = DecoderWeights(weights, config)
        self.sizes = self.stored.sizes
        half = self.sizes.head_dim // 2
        self.last_slot = graph.input("last_slot", [1], "int32")
        self.total = graph.input("total", [1], "int32")
        self.cos = graph.input("cos", ["capacity", half])
        self.sin = graph.input("sin", ["capacity", half])

    def build(self, x: str) -> str:
        """embeds -> hidden after the final norm."""
        normed = self.graph.rms_norm(x, self.stored.first_norm, "/layers.0/input_norm", self.config.rms_norm_eps)
        for index in range(self.config.num_layers):
            x, normed = self._layer(x, normed, index)
        return normed

    def _layer(self, x: str, normed: str, index: int) -> tuple[str, str]:
        """The layer's result, and its norm for the next layer or the output head."""
        graph, sizes = self.graph, self.sizes
        path = f"/layers.{index}"
        shape: Shape = [1, sizes.kv_heads, "capacity", sizes.head_dim]
        past = [graph.input(f"past.{index}.{kind}", shape, self.cache_dtype) for kind in ("key", "value")]
        weights = self.stored.layer(index)
        norms, parts = norm_names(index, self.config), matrix_parts(index, self.config)
        cache = [*past, self.last_slot, self.total, self.cos, self.sin]
        formats = [graph.format(matrix, part) for matrix, part in zip(weights.matrices, parts.values(), strict=True)]
        if self._is_one_operator(weights, formats):
            inputs = [
                x,
                normed,
                *self._initializers(weights, parts, path, norms),
                *cache,
                *self._cache_steps(path, index),
            ]
            function = decoder_layer(sizes, formats[0], self.cache_dtype)
            outputs = graph.call(function, inputs, path, **sizes.attributes(formats))
        else:
            cache += self._cache_steps(path, index)

            def attention(packed: str) -> list[str]:
                return graph.call(
                    cached_attention(self.cache_dtype), [packed, *cache], f"{path}/attn", **sizes.attention
                )

            outputs = layer_nodes(graph, path, x, normed, weights, parts, norms, sizes, attention)
        y, normed, *present = outputs
        for kind, value in zip(("key", "value"), present, strict=True):
            graph.output(value, f"present.{index}.{kind}", shape, self.cache_dtype)
        return y, normed

    def _is_one_operator(self, weights: LayerWeights, formats: list[WeightFormat]) -> bool:
        """Whether the operator of a whole layer takes the layer's matrices as they are stored."""
        if formats[0].kind is Kind.FP32 or (len(set(formats)) == 1 and not weights.are_quantized):
            return True
        takes_inputs = all(
            not matrix.parts and (matrix.quantized is None or matrix.quantized.order is None)
            for matrix in weights.matrices
        )
        return takes_inputs and all(map(has_float16_kernel, formats))

    def _cache_steps(self, path: str, index: int) -> list[str]:
        """The steps of keys and of values, for a cache in INT8."""
        if self.cache_scales is None:
            return []
        scales = (("key", self.cache_scales.keys), ("value", self.cache_scales.values))
        return [self.graph.const(values[index], f"{path}/attn/{kind}_scale", inline=True) for kind, values in scales]

    def _initializers(
        self, weights: LayerWeights, parts: Mapping[str, str], path: str, norms: tuple[str, str]
    ) -> list[str]:
        """The layer's initializers, in the operator's order."""
        graph = self.graph

        def matrix(tensor: LazyTensor, part: str, name: str) -> list[str]:
            stored = graph.matrix(tensor, f"{path}/{name}.weight", part)
            return stored + [""] * (matrix_inputs(graph.format(tensor, part)) - len(stored))

        return [
            *matrix(weights.qkv, parts["qkv"], "attn/qkv_proj"),
            graph.weight(weights.qkv_bias, f"{path}/attn/qkv_proj.bias"),
            *matrix(weights.out, parts["out"], "attn/o_proj"),
            graph.weight(weights.middle_norm, f"{norms[0]}.weight"),
            *matrix(weights.gate_up, parts["gate_up"], "mlp/gate_up_proj"),
            *matrix(weights.down, parts["down"], "mlp/down_proj"),
            graph.weight(weights.next_norm, f"{norms[1]}.weight"),
        ]
