"""A decoder layer node by node, where the operator of a whole layer does not fit.

That operator does not take activations in the order of a matrix's groups (act-order), matrices that share their input
but are quantized differently, or formats of which one has no compiled operator. And no NPU takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from omni_export.graph.builder import GraphBuilder
from omni_export.models.decoder_layer import LayerSizes
from omni_export.models.decoder_weights import LayerWeights

Attention = Callable[[str], list[str]]
"""Packed Q, K and V -> attended values, keys and values."""


def layer_nodes(
    graph: GraphBuilder,
    path: str,
    x: str,
    normed: str,
    weights: LayerWeights,
    parts: Mapping[str, str],
    norm_names: tuple[str, str],
    sizes: LayerSizes,
    attention: Attention,
) -> list[str]:
    """Adds the nodes of a layer; returns y, next_normed, and the keys and values that `attention` returns.

    Args:
        graph: the decoder's.
        path: of the layer.
        x, normed: float32 [1, S, hidden].
        weights: the layer's.
        parts: name of a matrix -> the part of the graph that it belongs to.
        norm_names: of the nodes of the two norms.
        sizes: of the layer.
        attention: adds the nodes of the attention.
    """
    packed = graph.linear(normed, weights.qkv, f"{path}/attn/qkv_proj", parts["qkv"], bias=weights.qkv_bias)
    attended, *present = attention(packed)
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
