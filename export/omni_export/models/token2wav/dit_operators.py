"""The DiT's operators of our own, by standard operators: all of a layer but its products with weights."""

from __future__ import annotations

from omni_export.graph.function import CONTRIB, Function


def gated_norm() -> Function:
    """x, delta, gate, scale, shift -> x + gate * delta, and its norm, modulated. Attribute: epsilon."""
    f = Function("GatedNorm")
    x, delta, gate, scale, shift = (f.input() for _ in range(5))
    total = f.op("Add", [x, f.op("Mul", [delta, gate])])
    # Not SkipLayerNormalization, which does both in one: measured, that kernel takes nine times as long.
    normed = f.op("LayerNormalization", [total, scale, shift], given={"epsilon": float}, axis=-1)
    f.output(total)
    f.output(normed)
    return f


def gelu_tanh() -> Function:
    """Gelu in tanh's form."""
    f = Function("GeluTanh")
    f.output(f.op("Gelu", [f.input()], approximate="tanh"))
    return f


def block_attention() -> Function:
    """Q, K and V side by side, cos, sin, bias -> attended: each block sees itself. Attributes: see `_attended`."""
    f = Function("BlockAttention")
    qkv, cos, sin, bias = (f.input() for _ in range(4))
    query, key, value = f.ops("Split", [qkv], 3, axis=-1, num_outputs=3)
    f.output(_attended(f, query, key, value, f.const([0]), cos, sin, bias))
    return f


def window_attention() -> Function:
    """Query, keys, values, place, cos, sin, bias -> attended: blocks see the windows that they stand at `place` of."""
    f = Function("WindowAttention")
    f.output(_attended(f, *(f.input() for _ in range(7))))
    return f


def _attended(f: Function, query: str, key: str, value: str, place: str, cos: str, sin: str, bias: str) -> str:
    """Rotates the first head alone, then attends. Attributes: num_heads; rotary_embedding_dim, the width of a head."""
    first = f.const([0])
    query, key = (
        # One wide "head", whose first values turn.
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
