"""A layer of a decoder as one operator, defined by standard ones. Our compiled kernel needs one dispatch to threads.

    h = x + attention(normed),  n = norm(h),  y = h + down(silu(gate(n)) * up(n)),  next_normed = norm(y)

Inputs, in this order; a matrix is as many inputs as `matrix_inputs` says:
    x, normed: float32 [1, S, hidden].
    qkv, its bias, out: the attention's matrices.
    norm of h, gate_up, down, norm of y: weights; gate_up is gate's rows followed by up's.
    past keys, past values: float32 or int8 [1, kv_heads, capacity, head_dim].
    last slot, total: int32 [1].
    cos, sin: float32 [capacity, head_dim / 2].
    steps of keys, steps of values: float32 [kv_heads * head_dim], for a cache in INT8 only.
Outputs: y, next_normed, present keys, present values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omni_export.graph.function import CONTRIB, Function
from omni_export.graph.linear import MATRIX_INPUTS, linear_in_function, linear_nodes
from omni_quant.policy import has_compiled_operator
from omni_quant.precision import WeightFormat

CACHE_INPUTS = 6
# The layer's matrices in the operator's order, by their names in attributes and in `LayerSizes`.
MATRICES = ("qkv", "out", "gate_up", "down")


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of one layer.

    Attributes:
        hidden: width of the layer's values.
        intermediate: width between gate, up and down.
        heads, kv_heads: of queries, and of keys and values.
        head_dim: the cache's head width.
        scale: factor of attention scores.
        epsilon: of the norms.
    """

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
        """Shape [out, in] of the attention's output matrix."""
        return self.hidden, self.heads * self.head_dim

    @property
    def gate_up(self) -> tuple[int, int]:
        """Shape [out, in] of gate and up, stacked."""
        return 2 * self.intermediate, self.hidden

    @property
    def down(self) -> tuple[int, int]:
        """Shape [out, in] of the matrix down."""
        return self.hidden, self.intermediate

    @property
    def attention(self) -> dict[str, Any]:
        """The attributes of the attention."""
        return {"num_heads": self.heads, "kv_num_heads": self.kv_heads, "scale": self.scale}

    def attributes(self, formats: Sequence[WeightFormat]) -> dict[str, Any]:
        """The operator's attributes for matrices in `formats`, in the order of `MATRICES`.

        Those of the matrices are for the compiled kernel, where there is one. With float32 scales it takes one format.
        """
        attributes = {**self.attention, "epsilon": self.epsilon}
        if has_compiled_operator(formats[0]):
            shared = not formats[0].float16_scales
            for name, weights in [("", formats[0])] if shared else zip(MATRICES, formats, strict=True):
                prefix = f"{name}_" if name else ""
                attributes |= {f"{prefix}bits": weights.kind.bits, f"{prefix}block_size": weights.group_size}
        return attributes


def matrix_inputs(weights: WeightFormat) -> int:
    """Inputs of the operator for each matrix. "" stands for zero points that the format does not have."""
    return MATRIX_INPUTS if has_float16_kernel(weights) else weights.initializers


def has_float16_kernel(weights: WeightFormat) -> bool:
    """Whether the compiled operator takes such matrices, each in a format of its own."""
    return has_compiled_operator(weights) and weights.float16_scales


def decoder_layer(sizes: LayerSizes, weights: WeightFormat, dtype: str) -> Function:
    """The operator for matrices in the format `weights` and a cache in `dtype`, "float32" or "int8"."""
    int8 = dtype == "int8"
    # A kernel is found by the operator's name: other matrices need another name.
    compiled, float16 = has_compiled_operator(weights), has_float16_kernel(weights)
    name = "DecoderLayer" if compiled else "PlainDecoderLayer"
    f = Function(name + ("F16" if float16 else "") + ("Int8" if int8 else ""))
    for name in ("bits", "block_size") if compiled and not float16 else ():
        f.attribute(name)

    def matrix() -> list[str]:
        return [f.input() for _ in range(matrix_inputs(weights))]

    def linear(name: str, x: str, matrix: list[str], bias: str = "") -> str:
        shape: tuple[int, int] = getattr(sizes, name)
        if float16:
            return linear_in_function(f, x, matrix, bias, shape, name)
        return linear_nodes(f, x, matrix, bias, shape, weights)

    x, normed = f.input(), f.input()
    qkv, qkv_bias, out = matrix(), f.input(), matrix()
    middle_norm, gate_up, down, next_norm = f.input(), matrix(), matrix(), f.input()
    cache = [f.input() for _ in range(CACHE_INPUTS + 2 * int8)]

    def added(x: str, delta: str, weight: str) -> tuple[str, str]:
        """The sum x + delta, and its norm."""
        outputs = f.ops(
            "SkipSimplifiedLayerNormalization",
            [x, delta, weight],
            4,
            domain=CONTRIB,
            without=(1, 2),
            given={"epsilon": float},
        )
        return outputs[1], outputs[0]

    packed = linear("qkv", normed, qkv, qkv_bias)
    given = {"num_heads": int, "kv_num_heads": int, "scale": float}
    attended, *present = f.call(cached_attention(dtype), [packed, *cache], given=given)
    h, normed = added(x, linear("out", attended, out), middle_norm)
    gate, up = f.ops("Split", [linear("gate_up", normed, gate_up)], 2, axis=-1, num_outputs=2)
    product = f.op("Mul", [f.op("QuickGelu", [gate], domain=CONTRIB, alpha=1.0), up])
    y, normed = added(h, linear("down", product, down), next_norm)
    for value in (y, normed, *present):
        f.output(value)
    return f


def cached_attention(dtype: str = "float32") -> Function:
    """The operator `CachedAttention`: rotates Q and K, appends to the cache, attends.

    Inputs: packed Q, K and V, past keys, past values, last slot, total, cos, sin; with a cache in "int8" the steps of
        keys and of values.
    Outputs: attended values, present keys, present values.
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
