"""The layers of a decoder over whole sequences in numpy, with the matrices handed in by the caller.

Source: transformers `Qwen2_5OmniDecoderLayer`; the same equations as `models.decoder_layer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from omni_edge.bundle.manifest import DecoderSection
from omni_edge.decoders.tmrope import Ids, RotaryTable
from omni_export.checkpoint.lazy_tensor import Array, LazyTensor
from omni_export.models.decoder_layer import LayerSizes
from omni_export.models.decoder_weights import LayerWeights

Matrix = Callable[[LazyTensor, Array], Array]
"""(weight, its inputs float32 [tokens, in]) -> the matrix to multiply by, float32 [out, in]; may round the inputs."""

# Tokens whose intermediate values are in memory at a time: 150 MB for the 7B.
_PIECE = 1024


class DecoderLayers:
    """Runs layers over sequences that do not see each other.

    Args:
        sizes: of a layer, as stored.
        section: the decoder's rotary tables.
        positions: of each sequence, int64 [3, tokens].
    """

    def __init__(self, sizes: LayerSizes, section: DecoderSection, positions: Sequence[Ids]) -> None:
        self._sizes = sizes
        table = RotaryTable(section)
        self._rotary = [table.rows(ids) for ids in positions]

    def run(self, hidden: Array, norm: Array, weights: LayerWeights, matrix: Matrix) -> Array:
        """One layer.

        Args:
            hidden: float32 [tokens, hidden], all sequences in a row.
            norm: float32 [hidden], weight of the layer's first norm.
            weights: the layer's.
            matrix: called for each of the four matrices, in the order in which they are used.

        Returns:
            float32 [tokens, hidden].
        """
        x = self.norm(hidden, norm)
        packed = x @ matrix(weights.qkv, x).T
        packed += weights.qkv_bias.load()
        x = self._attend(packed)
        del packed
        hidden = hidden + x @ matrix(weights.out, x).T
        x = self.norm(hidden, weights.middle_norm.load())
        gate_up = matrix(weights.gate_up, x)
        product = np.empty((len(x), self._sizes.intermediate), np.float32)
        for start in range(0, len(x), _PIECE):
            piece = slice(start, start + _PIECE)
            gate, up = np.split(x[piece] @ gate_up.T, 2, axis=-1)
            np.multiply(_silu(gate), up, out=product[piece])
        del gate_up
        hidden += product @ matrix(weights.down, product).T
        return hidden

    def norm(self, hidden: Array, weight: Array) -> Array:
        """hidden / rms(hidden) * weight, float32 [tokens, hidden]."""
        squares = np.einsum("th,th->t", hidden, hidden) / np.float32(hidden.shape[1])
        scaled: Array = hidden / np.sqrt(squares + np.float32(self._sizes.epsilon))[:, None]
        scaled *= weight
        return scaled

    def _attend(self, packed: Array) -> Array:
        """Causal attention within each sequence: Q, K and V [tokens, ...] -> float32 [tokens, heads * head_dim]."""
        sizes = self._sizes
        heads, kv_heads, width = sizes.heads, sizes.kv_heads, sizes.head_dim
        attended = np.empty((len(packed), heads * width), np.float32)
        start = 0
        for cos, sin in self._rotary:
            count = len(cos)
            here = slice(start, start + count)
            split = packed[here].reshape(count, -1, width).transpose(1, 0, 2)
            rotated = _rotate(split[: heads + kv_heads], cos, sin)
            queries = rotated[:heads].reshape(kv_heads, -1, count, width)
            keys, values = rotated[heads:, None], split[heads + kv_heads :, None]
            scores = queries @ keys.swapaxes(-1, -2)
            scores *= np.float32(sizes.scale)
            scores[..., np.triu(np.ones((count, count), np.bool_), 1)] = -np.inf
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            mixed = (scores @ values).reshape(heads, count, width)
            attended[here] = mixed.transpose(1, 0, 2).reshape(count, -1)
            start += count
        return attended


def _rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates pairs (i, i + width / 2) of x float32 [heads, tokens, width]."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _silu(x: Array) -> Array:
    # The sigmoid by tanh neither overflows nor warns.
    sigmoid: Array = np.float32(0.5) * (np.float32(1) + np.tanh(np.float32(0.5) * x))
    return x * sigmoid
