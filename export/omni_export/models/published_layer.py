"""A decoder layer whose matrices the checkpoint has quantized, node by node.

It takes what the operator of a whole layer does not: activations in the order of a matrix's groups (act-order),
matrices that share their input but are quantized differently, and formats of which one has no compiled operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omni_export.graph.builder import GraphBuilder
from omni_export.models.decoder_layer import LayerSizes, cached_attention
from omni_export.models.decoder_weights import LayerWeights


def published_layer(
    graph: GraphBuilder,
    path: str,
    x: str,
    normed: str,
    weights: LayerWeights,
    parts: Mapping[str, str],
    norm_names: tuple[str, str],
    cache: Sequence[str],
    sizes: LayerSizes,
    dtype: str,
) -> list[str]:
    """Adds the nodes of a layer; returns y, next_normed, present keys and present values.

    Args:
        graph: the decoder's.
        path: of the layer.
        x, normed: float32 [1, S, hidden].
        weights: the layer's.
        parts: name of a matrix -> the part of the graph that it belongs to.
        norm_names: of the nodes of the two norms.
        cache: the attention's inputs after Q, K and V; see `decoder_layer`.
        sizes: of the layer.
        dtype: of the cache, "float32" or "int8".
    """
    packed = graph.linear(normed, weights.qkv, f"{path}/attn/qkv_proj", parts["qkv"], bias=weights.qkv_bias)
    attention = {"num_heads": sizes.heads, "kv_num_heads": sizes.kv_heads, "scale": sizes.scale}
    attended, *present = graph.call(cached_attention(dtype), [packed, *cache], f"{path}/attn", **attention)
    delta = graph.linear(attended, weights.out, f"{path}/attn/o_proj", parts["out"])
    middle, last = norm_names
    normed, h = graph.skip_rms_norm(x, delta, weights.middle_norm, middle, sizes.epsilon)
    gate_up = graph.linear(normed, weights.gate_up, f"{path}/mlp/gate_up_proj", parts["gate_up"])
    halves = [f"{path}/mlp/gate", f"{path}/mlp/up"]
    graph.op("Split", [gate_up], f"{path}/mlp", outputs=halves, axis=-1, num_outputs=2)
    product = graph.op("Mul", [graph.silu(halves[0], f"{path}/mlp"), halves[1]], f"{path}/mlp")
    delta = graph.linear(product, weights.down, f"{path}/mlp/down_proj", parts["down"])
    normed, y = graph.skip_rms_norm(h, delta, weights.next_norm, last, sizes.epsilon)
    return [y, normed, *present]
