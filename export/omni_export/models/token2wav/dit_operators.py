"""Operators of our own for the DiT, defined by standard operators: all of a layer except its linear layers."""

from __future__ import annotations

from omni_export.graph.function import CONTRIB, Function


def gated_norm() -> Function:
    """The operator `GatedNorm`.

    Inputs: x, delta, gate, scale, shift. Outputs: x + gate * delta, and its modulated norm. Attribute: epsilon.
    """
    f = Function("GatedNorm")
    x, delta, gate, scale, shift = (f.input() for _ in range(5))
    total = f.op("Add", [x, f.op("Mul", [delta, gate])])
    # SkipLayerNormalization would do both at once, but its kernel takes nine times as long (measured).
    normed = f.op("LayerNormalization", [total, scale, shift], given={"epsilon": float}, axis=-1)
    f.output(total)
    f.output(normed)
    return f


def gelu_tanh() -> Function:
    """The operator `GeluTanh`: the approximation of Gelu by tanh."""
    f = Function("GeluTanh")
    f.output(f.op("Gelu", [f.input()], approximate="tanh"))
    return f


def block_attention() -> Function:
    """The operator `BlockAttention`: each block attends to itself.

    Inputs: Q, K and V side by side, cos, sin, bias. Output: attended values. Attributes: see `_attended`.
    """
    f = Function("BlockAttention")
    qkv, cos, sin, bias = (f.input() for _ in range(4))
    query, key, value = f.ops("Split", [qkv], 3, axis=-1, num_outputs=3)
    f.output(_attended(f, query, key, value, f.const([0]), cos, sin, bias))
    return f


def window_attention() -> Function:
    """The operator `WindowAttention`: each block attends to its window.

    Inputs: query, keys, values, the block's place in its window, cos, sin, bias. Output: attended values. Attributes:
    see `_attended`.
    """
    f = Function("WindowAttention")
    f.output(_attended(f, *(f.input() for _ in range(7))))
    return f


def _attended(f: Function, query: str, key: str, value: str, place: str, cos: str, sin: str, bias: str) -> str:
    """Rotates the first head only, then attends. Attributes: num_heads; rotary_embedding_dim, the width of a head."""
    first = f.const([0])
    query, key = (
        # All heads are one wide head, whose first values are rotated.
        f.ops(
            "RotaryEmbedding",
            [x, position, cos, sin],
            1,
            domain=CONTRIB,
            given={"rotary_embedding_dim": int},
            interleaved=1,
            num_heads=1,
        )[0]
        for x, position in ((query, place), (key, first))
    )
    inputs = [query, key, value, "", "", bias]
    return f.ops("MultiHeadAttention", inputs, 1, domain=CONTRIB, given={"num_heads": int})[0]
