"""A layer of a decoder as one operator, by standard ones: where our kernel is compiled, it is one dispatch to threads.

    h = x + attention(normed),  n = norm(h),  y = h + down(silu(gate(n)) * up(n)),  and norm(y) for the layer behind it

Inputs: x and its norm `normed` [1, S, hidden]; the matrix of Q, K and V packed, and its bias; the matrix of the
attention's output; the weight of the norm of h; the matrix of gate and, behind it, up; the one of down; the weight of
the norm of y; past keys and values, last slot, total, cos and sin; with a cache in int8 the steps of keys and of
values. A matrix is as many inputs as `GraphBuilder.matrix` gives. Outputs: y and its norm, present keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omni_export.graph.function import CONTRIB, Function
from omni_export.graph.linear import linear_nodes
from omni_quant.policy import has_compiled_operator
from omni_quant.precision import Kind, WeightFormat

CACHE_INPUTS = 6


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of one layer; `head_dim` is the cache's, `scale` the factor of attention scores."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    epsilon: float

    @property
    def qkv(self) -> tuple[int, int]:
        """Shape [out, in] of the matrix of Q, K and V."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim, self.hidden

    @property
    def out(self) -> tuple[int, int]:
        """Of the attention's output."""
        return self.hidden, self.heads * self.head_dim

    @property
    def gate_up(self) -> tuple[int, int]:
        """Of gate and up."""
        return 2 * self.intermediate, self.hidden

    @property
    def down(self) -> tuple[int, int]:
        """Of down."""
        return self.hidden, self.intermediate

    def attributes(self, weights: WeightFormat) -> dict[str, Any]:
        """The operator's attributes; the definition needs those of the matrices only where a kernel may take them."""
        attributes = {
            "num_heads": self.heads,
            "kv_num_heads": self.kv_heads,
            "scale": self.scale,
            "epsilon": self.epsilon,
        }
        if has_compiled_operator(weights):
            attributes |= {"bits": weights.kind.bits, "block_size": weights.group_size}
        return attributes


def decoder_layer(sizes: LayerSizes, weights: WeightFormat, dtype: str) -> Function:
    """The layer over a cache in `dtype`."""
    int8 = dtype == "int8"
    # Only matrices that our operators take have a kernel; it goes by the name.
    compiled = has_compiled_operator(weights)
    f = Function(("DecoderLayer" if compiled else "PlainDecoderLayer") + ("Int8" if int8 else ""))
    for name in ("bits", "block_size") if compiled else ():
        f.attribute(name)

    def matrix() -> list[str]:
        return [f.input() for _ in range(1 if weights.kind is Kind.FP32 else 2)]

    x, normed = f.input(), f.input()
    qkv, qkv_bias, out = matrix(), f.input(), matrix()
    middle_norm, gate_up, down, next_norm = f.input(), matrix(), matrix(), f.input()
    cache = [f.input() for _ in range(CACHE_INPUTS + 2 * int8)]

    def added(x: str, delta: str, weight: str) -> tuple[str, str]:
        """x + delta and its norm."""
        outputs = f.ops(
            "SkipSimplifiedLayerNormalization",
            [x, delta, weight],
            4,
            domain=CONTRIB,
            without=(1, 2),
            given={"epsilon": float},
        )
        return outputs[1], outputs[0]

    packed = linear_nodes(f, normed, qkv, qkv_bias, sizes.qkv, weights)
    given = {"num_heads": int, "kv_num_heads": int, "scale": float}
    attended, *present = f.call(cached_attention(dtype), [packed, *cache], given=given)
    h, normed = added(x, linear_nodes(f, attended, out, "", sizes.out, weights), middle_norm)
    gate, up = f.ops("Split", [linear_nodes(f, normed, gate_up, "", sizes.gate_up, weights)], 2, axis=-1, num_outputs=2)
    product = f.op("Mul", [f.op("QuickGelu", [gate], domain=CONTRIB, alpha=1.0), up])
    y, normed = added(h, linear_nodes(f, product, down, "", sizes.down, weights), next_norm)
    for value in (y, normed, *present):
        f.output(value)
    return f


def cached_attention(dtype: str = "float32") -> Function:
    """Q, K and V as one, past keys, past values, last slot, total, cos, sin -> attended, keys, values.

    With a cache in "int8", the steps of keys and of values are two more inputs.
    """
    int8 = dtype == "int8"
    f = Function("CachedAttentionInt8" if int8 else "CachedAttention")
    qkv, *others = (f.input() for _ in range(1 + CACHE_INPUTS))
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
