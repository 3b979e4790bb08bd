"""The Thinker step and the Talker step: a Qwen2 decoder over a shared, fixed-capacity KV cache.

One graph serves prefill (many positions) and decode (one position):

- `GroupQueryAttention` takes Q, K and V packed, rotates them, and appends to the cache in place when past and present
  are bound to the same memory. Its cos/sin tables are graph inputs indexed by cache slot; the runtime writes each
  slot's row already mixed from time, height and width angles, so TMRoPE costs nothing here.
- Residual additions and RMS norms are one operator; only the last position meets the output head.

Source: transformers `Qwen2_5OmniThinkerTextModel`, `Qwen2_5OmniTalkerForConditionalGeneration`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omni_edge.manifest import DecoderSection, TalkerSection
from omni_export.checkpoint import Scope
from omni_export.config import DecoderConfig, TalkerConfig
from omni_export.function import CONTRIB, Function
from omni_export.graph import GraphBuilder, Precision, Shape
from omni_export.lazy import Array, LazyTensor

# GroupQueryAttention rotates heads whose halves are multiples of 8 values wide (onnxruntime 1.32).
_HALF_HEAD_MULTIPLE = 8


def padded_head_dim(config: DecoderConfig) -> int:
    """The cache's head width: `head_dim` with each rotary half padded to what the attention kernel takes."""
    half = config.head_dim // 2
    return 2 * (-(-half // _HALF_HEAD_MULTIPLE) * _HALF_HEAD_MULTIPLE)


@dataclass(frozen=True)
class CacheScales:
    """Steps of an INT8 cache: float32 [layers, kv_heads * head_dim], one per channel, for keys (rotated) and values."""

    keys: Array
    values: Array


def section(config: DecoderConfig, *, int8_cache: bool = False) -> DecoderSection:
    """What the runtime needs to know of a decoder."""
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
    """The Talker's special codec tokens; the row after the vocabulary is the one of no codec token."""
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
    """The Thinker step. `weights` is the scope `thinker`; `cache_scales` makes its cache INT8.

    Inputs: embeds [1, S, hidden], cache and tables (see `_Layers`). Outputs: hidden [1, S, hidden] after the final
    norm, logits [1, 1, vocabulary] of the last position. With and without scales the large weights are the same.
    """
    graph = GraphBuilder("thinker", precision)
    embeds = graph.input("embeds", [1, "S", config.hidden_size])
    hidden = _Layers(graph, weights.scope("model"), config, cache_scales).build(embeds)
    # Tied checkpoints store no output head: the embedding is used once more.
    head = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    _outputs(graph, hidden, weights(head, (config.vocab_size, config.hidden_size)), "/lm_head")
    return graph


def build_talker(weights: Scope, config: TalkerConfig, precision: Precision) -> GraphBuilder:
    """The Talker step. `weights` is the scope `talker`.

    Inputs: codec_ids int64 [1, S] (`none_codec` where a position carries no codec token), states [1, S, embedding]
    (the Thinker's embedding + hidden of the position), cache and tables. Output: logits [1, 1, vocabulary].
    """
    decoder = config.decoder
    graph = GraphBuilder("talker", precision)
    ids = graph.input("codec_ids", [1, "S"], "int64")
    states = graph.input("states", [1, "S", config.embedding_size])
    table = weights("model.embed_tokens.weight", (decoder.vocab_size, config.embedding_size))
    nothing = LazyTensor.of(np.zeros((1, config.embedding_size), np.float32), "no codec token")
    codec = graph.embedding(ids, LazyTensor.stack([table, nothing]), "/embed_tokens", _table_precision(precision))
    projected = graph.linear(
        graph.op("Add", [codec, states], "/embed_tokens"),
        weights("thinker_to_talker_proj.weight", (decoder.hidden_size, config.embedding_size)),
        "/thinker_to_talker_proj",
        bias=weights("thinker_to_talker_proj.bias"),
    )
    hidden = _Layers(graph, weights.scope("model"), decoder).build(projected)
    _outputs(graph, hidden, weights("codec_head.weight", (decoder.vocab_size, decoder.hidden_size)), "/codec_head")
    return graph


def build_token_embedding(weights: Scope, config: DecoderConfig, precision: Precision) -> GraphBuilder:
    """Text tokens -> embeds: ids int64 [1, S] -> embeds [1, S, hidden]. `weights` is the scope `thinker.model`."""
    precision = _table_precision(precision)
    graph = GraphBuilder("token_embedding", precision)
    ids = graph.input("ids", [1, "S"], "int64")
    table = weights("embed_tokens.weight", (config.vocab_size, config.hidden_size))
    embeds = graph.embedding(ids, table, "/embed_tokens", precision)
    graph.output(embeds, "embeds", [1, "S", config.hidden_size])
    return graph


def _table_precision(precision: Precision) -> Precision:
    """Embedding tables keep 8 bits: a row is read once per token, so the other four would save no time."""
    return precision if precision.kind == "fp32" else Precision("int8", precision.group_size)


def _outputs(graph: GraphBuilder, hidden: str, head: LazyTensor, name: str) -> None:
    ends = [graph.const(np.array([value], np.int64)) for value in (-1, np.iinfo(np.int64).max, 1)]
    last = graph.op("Slice", [hidden, *ends], f"{name}/last")
    logits = graph.linear(last, head, name)
    graph.output(hidden, "hidden", [1, "S", head.shape[1]])
    graph.output(logits, "logits", [1, 1, head.shape[0]])


class _Layers:
    """The decoder layers of one model, with the graph inputs they share.

    Cache: past.{i}.key / past.{i}.value [1, kv_heads, capacity, head_dim], present.* likewise. last_slot int32 [1]: the
    slot of the last position of this call. total int32 [1]: positions in the cache after this call. cos, sin
    [capacity, head_dim / 2]: one row per slot.
    """

    def __init__(
        self, graph: GraphBuilder, weights: Scope, config: DecoderConfig, cache_scales: CacheScales | None = None
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.config = config
        self.cache_scales = cache_scales
        self.head_dim = padded_head_dim(config)
        half = self.head_dim // 2
        self.last_slot = graph.input("last_slot", [1], "int32")
        self.total = graph.input("total", [1], "int32")
        self.cos = graph.input("cos", ["capacity", half])
        self.sin = graph.input("sin", ["capacity", half])

    def build(self, x: str) -> str:
        """embeds -> hidden after the final norm."""
        graph, config = self.graph, self.config
        normed = graph.rms_norm(x, self._norm("layers.0.input_layernorm"), "/layers.0/input_norm", config.rms_norm_eps)
        for index in range(config.num_layers):
            path = f"/layers.{index}"
            weights = self.weights.scope(f"layers.{index}")
            attended = self._attention(normed, weights.scope("self_attn"), index, f"{path}/attn")
            normed, x = graph.skip_rms_norm(
                attended,
                x,
                self._norm(f"layers.{index}.post_attention_layernorm"),
                f"{path}/post_attn_norm",
                config.rms_norm_eps,
            )
            fed = self._mlp(normed, weights.scope("mlp"), f"{path}/mlp")
            last = index == config.num_layers - 1
            normed, x = graph.skip_rms_norm(
                fed,
                x,
                self._norm("norm" if last else f"layers.{index + 1}.input_layernorm"),
                "/norm" if last else f"/layers.{index + 1}/input_norm",
                config.rms_norm_eps,
            )
        return normed

    def _norm(self, name: str) -> LazyTensor:
        return self.weights(f"{name}.weight", (self.config.hidden_size,))

    def _attention(self, x: str, weights: Scope, index: int, path: str) -> str:
        graph, config = self.graph, self.config
        heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.hidden_size
        parts = []
        for name, count, rotated in (("q_proj", heads, True), ("k_proj", kv_heads, True), ("v_proj", kv_heads, False)):
            rows = count * config.head_dim
            weight, bias = weights(f"{name}.weight", (rows, width)), weights(f"{name}.bias", (rows,))
            parts.append((self._pad_rows(weight, rotated), self._pad_rows(bias, rotated)))
        qkv = graph.linear(
            x,
            LazyTensor.stack([weight for weight, _ in parts]),
            f"{path}/qkv_proj",
            bias=LazyTensor.stack([bias for _, bias in parts]),
        )
        cache_shape: Shape = [1, kv_heads, "capacity", self.head_dim]
        dtype = "int8" if self.cache_scales else "float32"
        past = [graph.input(f"past.{index}.{kind}", cache_shape, dtype) for kind in ("key", "value")]
        inputs = [qkv, *past, self.last_slot, self.total, self.cos, self.sin]
        sizes = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": config.head_dim**-0.5}
        if scales := self.cache_scales:
            for kind, values in (("key", scales.keys), ("value", scales.values)):
                inputs.append(graph.const(values[index], f"{path}/{kind}_scale", inline=True))
        attended, *present = graph.call(cached_attention(dtype), inputs, path, **sizes)
        for kind, value in zip(("key", "value"), present, strict=True):
            graph.output(value, f"present.{index}.{kind}", cache_shape, dtype)
        out = weights("o_proj.weight", (width, heads * config.head_dim))
        return graph.linear(attended, self._pad_columns(out), f"{path}/o_proj")

    def _mlp(self, x: str, weights: Scope, path: str) -> str:
        graph, config = self.graph, self.config
        shape = (config.intermediate_size, config.hidden_size)
        gate = graph.linear(x, weights("gate_proj.weight", shape), f"{path}/gate_proj")
        up = graph.linear(x, weights("up_proj.weight", shape), f"{path}/up_proj")
        product = graph.op("Mul", [graph.silu(gate, f"{path}/act"), up], f"{path}/act")
        return graph.linear(product, weights("down_proj.weight", shape[::-1]), f"{path}/down_proj")

    def _pad_rows(self, tensor: LazyTensor, rotated: bool) -> LazyTensor:
        """Zero rows up to the cache's head width: after each rotary half, or after the head where nothing rotates."""
        if self.head_dim == self.config.head_dim:
            return tensor
        groups = 2 if rotated else 1
        size, padded = self.config.head_dim // groups, self.head_dim // groups
        count = tensor.shape[0] // size

        def pad(array: Array) -> Array:
            grouped = array.reshape(count, size, -1)
            return np.pad(grouped, ((0, 0), (0, padded - size), (0, 0))).reshape(count * padded, *array.shape[1:])

        return tensor.map(pad, (count * padded, *tensor.shape[1:]))

    def _pad_columns(self, tensor: LazyTensor) -> LazyTensor:
        if self.head_dim == self.config.head_dim:
            return tensor
        rows, heads = tensor.shape[0], self.config.num_heads

        def pad(array: Array) -> NDArray[np.float32]:
            split = array.reshape(rows, heads, self.config.head_dim)
            return np.pad(split, ((0, 0), (0, 0), (0, self.head_dim - self.config.head_dim))).reshape(rows, -1)

        return tensor.map(pad, (rows, heads * self.head_dim))


def cached_attention(dtype: str = "float32") -> Function:
    """Q, K and V as one, past keys, past values, last slot, total, cos, sin -> attended, keys, values.

    With a cache in "int8", the steps of keys and of values are two more inputs.
    """
    int8 = dtype == "int8"
    f = Function("CachedAttentionInt8" if int8 else "CachedAttention")
    qkv, *others = (f.input() for _ in range(7))
    inputs = [qkv, "", "", *others]
    quantized: dict[str, Any] = {}
    if int8:
        inputs += ["", "", "", f.input(), f.input()]
        quantized = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    sizes = {"num_heads": int, "kv_num_heads": int, "scale": float}
    outputs = f.ops("GroupQueryAttention", inputs, 3, domain=CONTRIB, given=sizes, do_rotary=1, **quantized)
    for value in outputs:
        f.output(value)
    return f
